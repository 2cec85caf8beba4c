"""Balancing strategies: one file a paper, all behind the hooks of ``BalancingStrategy``."""
