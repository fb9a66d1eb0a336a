"""Device, processes, random numbers, finite checks."""
