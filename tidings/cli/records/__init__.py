"""The commands that read many records of a running service: list, export, usage.

They may import `support` and, when they run, the client.
"""
