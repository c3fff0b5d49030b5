"""The Python client: reading and watching predictions of a running service.

Imports no other part of the project.
"""
