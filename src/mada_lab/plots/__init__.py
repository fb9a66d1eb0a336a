"""Figures as functions of run records: neither torch nor the training loop is needed to draw one."""
