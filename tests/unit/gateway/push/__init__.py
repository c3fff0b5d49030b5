"""Tests: unit / gateway / push."""
