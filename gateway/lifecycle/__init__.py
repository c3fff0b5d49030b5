"""What clients ask for in the course of a prediction's life: retries, groups.

May import `api` and what that may import.
"""
