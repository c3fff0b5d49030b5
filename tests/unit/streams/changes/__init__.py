"""Tests: unit / streams / changes."""
