"""The record of a run: written, read, mirrored, summed up."""
