"""Calibration: whether a run's probabilities match observed frequencies."""
