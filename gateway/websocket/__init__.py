"""The listening socket and the WebSocket framing under `tidings.v1`.

Imports `push`, `auth` and `http` from this floor.
"""
