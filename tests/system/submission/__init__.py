"""Tests: system / submission."""
