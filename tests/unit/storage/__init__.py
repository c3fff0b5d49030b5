"""Tests: unit / storage."""
