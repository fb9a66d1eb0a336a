"""The optimizers that a run can name, and how a configuration builds them."""
