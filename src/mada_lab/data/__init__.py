"""Data sets: prepared once into token files with a sidecar, then read through memory maps."""
