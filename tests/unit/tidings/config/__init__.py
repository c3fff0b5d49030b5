"""Tests: unit / tidings / config."""
