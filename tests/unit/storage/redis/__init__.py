"""Tests: unit / storage / redis."""
