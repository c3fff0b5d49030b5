"""Tests: integration / gateway."""
