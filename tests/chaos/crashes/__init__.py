"""Tests: chaos / crashes."""
