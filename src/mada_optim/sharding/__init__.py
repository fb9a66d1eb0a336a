"""Tensors that are spread over processes."""
