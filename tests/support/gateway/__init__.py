"""Tests: support / gateway."""
