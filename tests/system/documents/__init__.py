"""What the documents show: every code block runs, or passes a checker of its own."""
