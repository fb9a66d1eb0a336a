"""Hypergradients, the learners that follow them, and the storage of learned coefficients."""
