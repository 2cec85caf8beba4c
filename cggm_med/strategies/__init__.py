"""Balancing strategies: one file per paper, each a subclass of ``BalancingStrategy`` that overrides its hooks."""
