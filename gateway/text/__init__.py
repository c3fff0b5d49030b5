"""A prediction's text as a resource of the Durable Streams protocol 1.0: reading it, and writing to it.

May import what lies below: auth, http, push, and the readers and writers of `api`.
"""
