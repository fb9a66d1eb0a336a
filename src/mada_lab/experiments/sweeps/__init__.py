"""Sweeps: trials planned, claimed, trained and joined."""
