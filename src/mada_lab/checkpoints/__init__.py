"""Checkpoints: written, read, compared, spread over processes."""
