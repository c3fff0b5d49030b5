"""Tests: unit / streams / providers / signatures."""
