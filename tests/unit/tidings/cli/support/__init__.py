"""Tests: unit / tidings / cli / support."""
