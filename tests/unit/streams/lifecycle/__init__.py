"""Tests: unit / streams / lifecycle."""
