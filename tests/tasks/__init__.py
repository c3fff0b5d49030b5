"""Submitting, looking up and canceling, over real HTTP against the stand-in provider."""
