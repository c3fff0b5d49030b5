"""Tests: unit / streams / log / sqlite."""
