"""Records in Postgres, by asyncpg.

The store, its connection pool and its tables. Imports the rest of `storage`; asyncpg is loaded when
a store is opened.
"""
