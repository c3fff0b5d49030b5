"""Tests: system / operator."""
