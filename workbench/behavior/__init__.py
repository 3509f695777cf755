"""What the model does: its replies, what they are, and how often it refuses."""
