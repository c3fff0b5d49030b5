"""Tests: unit / streams / rules."""
