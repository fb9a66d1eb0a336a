"""A rule's computation as a graph: specialized to what is fixed, and differentiated."""
