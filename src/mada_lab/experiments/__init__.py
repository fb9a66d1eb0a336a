"""The paper's experiments: online problems; sweeps, grids and comparisons of many run folders."""
