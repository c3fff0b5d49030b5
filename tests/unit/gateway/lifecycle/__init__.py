"""Tests: unit / gateway / text."""
