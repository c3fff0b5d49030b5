"""What a process is to its machine: its signals, its ports, the worker processes below it."""
