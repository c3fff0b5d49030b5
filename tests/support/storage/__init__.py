"""Tests: support / storage."""
