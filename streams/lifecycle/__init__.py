"""What follows by itself in a prediction's life: deadlines, retries, a group's members, answers.

May import `submission` and what that may import; only the delivery of answers calls a provider.
"""
