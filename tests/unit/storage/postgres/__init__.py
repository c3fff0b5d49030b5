"""Tests: unit / storage / postgres."""
