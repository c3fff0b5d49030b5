"""What a program of its own uses without a service: a store as the settings say, and submission."""
