"""Records in one SQLite file.

The store, its tables, the thread that writes with one commit for many callers, and upgrades of
older files. Imports the rest of `storage` and the standard library's `sqlite3`.
"""
