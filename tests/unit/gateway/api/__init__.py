"""Tests: unit / gateway / api."""
