"""Tests: unit / gateway / http."""
