"""A balancing strategy from another package."""
