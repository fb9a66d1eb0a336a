"""A rule's computation as a graph: specialized to fixed coefficients, and differentiated."""
