"""One file a provider: what its webhooks say, how they are proven, and its API.

Each is pure and loaded by `registry` when it is configured or named in a record.
"""
