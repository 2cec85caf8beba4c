"""A metric from another package."""
