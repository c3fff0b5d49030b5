"""Tests: support / providers."""
