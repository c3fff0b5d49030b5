"""What is known about a prediction, and where it rests.

`prediction` is the record, `store` the protocol, `factory` opens a store by its URL; a folder for
each backend, `wrappers` for stores that wrap stores, and `resilience` for waits, rates and circuit
breakers, which every floor uses. Imports nothing above it. The public names are in `tidings`.
"""
