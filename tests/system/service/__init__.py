"""Tests: system / service."""
