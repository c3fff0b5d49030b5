"""Tests: unit / streams / providers."""
