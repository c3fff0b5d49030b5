"""Tests: system / commands."""
