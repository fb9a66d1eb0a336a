"""Hypergradients, what learns from them, and where learned coefficients live."""
