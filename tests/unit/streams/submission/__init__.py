"""Tests: unit / streams / submission."""
