"""What is known about a prediction, and where it rests.

`prediction` is the record, `store` the protocol, `factory` opens a store by its URL; a folder for
each backend, and `wrappers` for stores that wrap stores. Imports nothing above it. The public names
are in `tidings`.
"""
