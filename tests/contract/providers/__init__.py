"""Tests: contract / providers."""
