"""Tests: system / texts."""
