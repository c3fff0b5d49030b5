"""Rebuilding and verifying a store from the log.

Imports `processing`, `rules`, `changes` and `log`.
"""
