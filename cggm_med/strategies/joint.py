"""Joint training: one loss on the fused prediction and no balancing; the baseline and the smallest strategy."""

from __future__ import annotations

from cggm_med.strategies.base import BalancingStrategy


class Joint(BalancingStrategy):
    """All encoders learn from the fused prediction alone."""

    description = "no balancing: every encoder learns from the fused prediction alone"
