"""How coefficients are learned: the hypergradient, and the step along it."""
