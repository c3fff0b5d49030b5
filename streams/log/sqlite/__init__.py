"""A log in one SQLite file, for one machine.

The log, its consumers, its tables, the thread that appends with one commit for many callers, retention and backup.
"""
