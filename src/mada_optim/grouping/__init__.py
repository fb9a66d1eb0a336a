"""Parameter groups made from the modules of a network."""
