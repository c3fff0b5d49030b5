"""Tests: support / streams."""
