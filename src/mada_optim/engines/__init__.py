"""The engines, which execute a step: a folder for each, and `eager`, the reference, which reads like the theory."""
