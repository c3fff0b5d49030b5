"""Tests: system / client."""
