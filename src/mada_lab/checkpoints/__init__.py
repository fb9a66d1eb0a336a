"""Checkpoints: writes, reads and compares them, also where processes share tensors."""
