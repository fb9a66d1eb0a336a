"""A trained network on a text: `mada-lab eval`."""
