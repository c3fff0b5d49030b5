"""Tests: support / reference."""
