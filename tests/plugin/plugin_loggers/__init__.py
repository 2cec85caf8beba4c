"""A run logger of its own."""
