"""Tests: integration / storage."""
