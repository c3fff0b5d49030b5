"""What an operator does with the data beside the running service: audit, erasure, backup."""
