"""The checks of Tidings."""
