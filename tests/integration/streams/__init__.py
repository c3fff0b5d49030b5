"""Tests: integration / streams."""
