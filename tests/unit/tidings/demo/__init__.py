"""Tests: unit / tidings / demo."""
