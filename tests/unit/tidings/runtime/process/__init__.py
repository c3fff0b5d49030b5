"""What a process is to its machine."""
