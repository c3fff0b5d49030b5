"""One file of tests a file of code, at the same path."""
