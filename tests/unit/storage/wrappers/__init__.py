"""Tests: unit / storage / wrappers."""
