"""The gateway as an ASGI application.

Requests and WebSockets of a host's server are served by the same handlers and sessions as those of
our own listener. Imports `websocket`, `push`, `auth` and `http` from this floor.
"""
