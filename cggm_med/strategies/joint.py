"""Joint training: one loss on the fused prediction and no balancing; the baseline and the smallest strategy."""

from __future__ import annotations

from dataclasses import dataclass

from cggm_med.strategies.base import BalancingStrategy, StrategyConfig


@dataclass(frozen=True)
class JointConfig(StrategyConfig):
    """Settings of joint training.

    Attributes:
        heads: whether classifier heads observe the modalities; they do not change the model, unless its prediction
            builds on them (``model.fusion=residual``), and cost a few per cent.
    """

    heads: bool = True


class Joint(BalancingStrategy):
    """All encoders learn from the fused prediction alone."""

    Config = JointConfig
    description = "no balancing: every encoder learns from the fused prediction alone"
    controls = ("unimodal_ensemble",)
    config: JointConfig

    @property
    def has_heads(self) -> bool:
        """See the settings."""
        return self.config.heads
