"""Tests: support / client."""
