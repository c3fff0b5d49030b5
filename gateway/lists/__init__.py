"""Many records at once: lists, what is searched in them, and sums of what was used.

May import `api` and what that may import.
"""
