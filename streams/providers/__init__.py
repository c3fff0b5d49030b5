"""Providers: translation and verification, one file each."""
