"""The first hour of three who try Tidings: each script does what the documents say, from their own code blocks."""
