"""Tests: unit / storage / resilience."""
