"""What a machine offers, and how to look."""
