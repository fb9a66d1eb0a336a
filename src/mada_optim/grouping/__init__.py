"""Parameter groups from the modules of a model."""
