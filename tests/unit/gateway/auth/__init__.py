"""Tests: unit / gateway / auth."""
