"""Streams: events, logs, processing, providers."""
