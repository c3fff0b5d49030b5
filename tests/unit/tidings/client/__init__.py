"""Tests: unit / tidings / client."""
