"""The changes topic: its records, those who follow it, and stores that are filled from it.

Imports `log` and `rules`.
"""
