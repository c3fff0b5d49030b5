"""Tests: unit / gateway / websocket."""
