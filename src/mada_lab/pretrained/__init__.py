"""Trained weights: read, exported, and where training starts from."""
