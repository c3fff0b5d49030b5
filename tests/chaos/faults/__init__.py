"""Tests: chaos / faults."""
