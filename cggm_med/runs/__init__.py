"""A run's folder on disk: settings, training from start to end, and reading it back."""
