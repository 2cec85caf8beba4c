"""Whether a run's probabilities match observed frequencies."""
