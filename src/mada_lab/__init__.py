"""Training, evaluation and reports on top of `mada_optim`. Command: `mada-lab`."""
