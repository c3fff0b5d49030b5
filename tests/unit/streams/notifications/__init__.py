"""Tests of word to other servers."""
