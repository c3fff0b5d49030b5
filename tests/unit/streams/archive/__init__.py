"""Tests: unit / streams / archive."""
