"""A step: collects the tensors, or reuses those of the last step, and gives them to engines."""
