"""Tests: unit / streams."""
