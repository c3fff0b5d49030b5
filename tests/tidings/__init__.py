"""Tests of the public face: settings, command line, client."""
