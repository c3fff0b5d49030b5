"""Crashes, faults and hostile input: whatever is harmed, nothing acknowledged is lost."""
