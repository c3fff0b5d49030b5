"""What the outside talks to: HTTP, WebSocket, webhooks, the page."""
