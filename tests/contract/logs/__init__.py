"""Tests: contract / logs."""
