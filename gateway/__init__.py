"""What the outside talks to: HTTP, WebSocket, webhooks, the page.

`app` puts the routes together on top of `auth`, `push`, `websocket` and `http`. Imports `streams` and `storage`.
"""
