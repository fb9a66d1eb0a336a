"""Experiments of many runs: sweeps, grids, comparisons. Each run is a normal run folder."""
