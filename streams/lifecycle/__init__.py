"""What follows by itself in a prediction's life: deadlines that pass, retries, the members of a group.

May import `submission` and what that may import; nothing here calls a provider.
"""
