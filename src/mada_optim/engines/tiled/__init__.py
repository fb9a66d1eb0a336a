"""The graph of a rule on tiles of tensors, in torch operations."""
