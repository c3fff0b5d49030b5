"""Tests: unit / storage / sqlite."""
