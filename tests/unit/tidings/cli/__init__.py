"""Tests: unit / tidings / cli."""
