"""Optimizers side by side, each with the same budget."""
