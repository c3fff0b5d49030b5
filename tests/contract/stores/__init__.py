"""Tests: contract / stores."""
