"""Tests: unit / streams / log."""
