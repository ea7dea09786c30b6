"""What users send, and what they feel."""
