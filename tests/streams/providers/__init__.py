"""Providers: verification and translation."""
