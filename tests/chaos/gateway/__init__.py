"""Tests: chaos / gateway."""
