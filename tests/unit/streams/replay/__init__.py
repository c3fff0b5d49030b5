"""Tests: unit / streams / replay."""
