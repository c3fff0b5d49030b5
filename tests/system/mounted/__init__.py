"""The service mounted in applications of other frameworks."""
