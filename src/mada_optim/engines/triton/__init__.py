"""Kernels in Triton, written for a rule."""
