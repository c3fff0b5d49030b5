"""Tidings: the state of long-running AI predictions, pushed the moment it changes."""
