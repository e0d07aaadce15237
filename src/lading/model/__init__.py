"""What a model is: its files, its tensors, its facts. Pure values."""
