"""The bench: MADA against tuned optimizers, on tasks that one core trains in seconds."""
