"""Tests: unit / streams / processing."""
