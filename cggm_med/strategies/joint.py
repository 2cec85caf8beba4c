"""Joint training: one loss on the fused prediction and no balancing; the baseline and the smallest strategy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cggm_med.models.base import MultimodalModel
from cggm_med.models.unimodal import UnimodalHeads
from cggm_med.scores import ScoreSums
from cggm_med.strategies.base import BalancingStrategy, StrategyConfig


@dataclass(frozen=True)
class JointConfig(StrategyConfig):
    """Settings of joint training.

    Attributes:
        heads: whether classifier heads watch the modalities; they change nothing in the model, and cost a few per cent.
    """

    heads: bool = True


class Joint(BalancingStrategy):
    """All encoders learn from the fused prediction alone."""

    Config = JointConfig
    description = "no balancing: every encoder learns from the fused prediction alone"
    config: JointConfig

    def setup(
        self,
        model: MultimodalModel,
        make_heads: Callable[[], UnimodalHeads],
        score_sums: ScoreSums,
        steps_per_epoch: int,
    ) -> None:
        """See the base class."""
        super().setup(model, make_heads, score_sums, steps_per_epoch)
        if not self.config.heads:
            self.heads = None
