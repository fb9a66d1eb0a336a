"""Tensors that are sharded over processes."""
