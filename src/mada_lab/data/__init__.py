"""Data sets: prepared once into token or image files with a sidecar, then read from the disk as needed."""
