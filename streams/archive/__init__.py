"""Keeping the files of finished predictions: downloading under the SSRF guard, and storing them.

Imports `changes`, `rules` and `log`.
"""
