"""Tests: unit / streams / support."""
