"""Stores that wrap stores: cache, fallback, A/B split, instrumentation, and a replica in memory.

They import the store protocol and the record, never a backend.
"""
