"""A step, in order: the parameters collected, what the last step found reused, the work given to engines."""
