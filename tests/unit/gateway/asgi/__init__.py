"""Tests of the gateway as an ASGI application."""
