"""What executes a step: a folder for each engine, and `eager`, the reference that reads like the theory."""
