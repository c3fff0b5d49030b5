"""Tests: unit / gateway."""
