"""Tests: unit / tidings / service."""
