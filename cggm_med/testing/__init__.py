"""Laws that a plug-in must keep, callable from its own tests."""

from cggm_med.testing.strategies import check_strategy

__all__ = ["check_strategy"]
