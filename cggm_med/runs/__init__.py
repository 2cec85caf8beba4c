"""Runs: their settings, training from start to end, and reading the run folder back."""
