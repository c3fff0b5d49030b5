"""Settings: what they are, where they come from, and what a wrong one is answered with.

Read once, at the edge; everything below takes arguments.
"""
