"""The stand-in provider."""
