"""What is known about a prediction, and where it rests."""
