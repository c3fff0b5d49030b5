"""What several commands share.

Flags and exit codes, output, progress, access to a running service, checks.

The commands import this package; it imports none of them.
"""
