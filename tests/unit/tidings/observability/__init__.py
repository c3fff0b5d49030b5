"""Tests: unit / tidings / observability."""
