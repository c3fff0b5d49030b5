"""Tests: unit / streams / providers / catalog."""
