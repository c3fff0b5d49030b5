"""Word to other servers: a signed webhook for every step of a prediction that somebody asked for.

May import `storage`, and of `streams` the log, the changes, the rules and the guard of `archive`.
"""
