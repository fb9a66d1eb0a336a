"""A step: collects the tensors, reuses what the last step found, and gives the tensors to engines."""
