"""The composed system as plain processes."""
