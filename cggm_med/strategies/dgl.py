"""Disentangled gradient learning (DGL), Wei et al., ICCV 2025, https://arxiv.org/abs/2507.10213.

Encoders learn from their own predictions alone, fusion and head from the fused prediction alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from cggm_med.config import require
from cggm_med.randomness import Step
from cggm_med.strategies.base import BalancingStrategy, StrategyConfig
from cggm_med.types import Features


@dataclass(frozen=True)
class DGLConfig(StrategyConfig):
    """Settings of DGL.

    Attributes:
        alpha: weight of each modality's own loss in its encoder; the authors' scripts have 4 and 5 for CREMA-D, 2 and 3
            for Kinetics-Sounds.
    """

    alpha: float = 4.0

    def __post_init__(self) -> None:
        require(self.alpha > 0, "strategy.alpha", self.alpha, "more than 0")


class DGL(BalancingStrategy):
    """Detaches the features before the fusion, and lets the classifier heads train the encoders."""

    Config = DGLConfig
    description = "encoders learn from their own predictions alone, the fusion from the fused one alone"
    url = "https://arxiv.org/abs/2507.10213"
    controls = (*BalancingStrategy.controls, "uniform_full")
    config: DGLConfig

    @property
    def unimodal_weight(self) -> float:
        """See the settings; the heads themselves learn at weight 1."""
        return self.config.alpha

    def adapt_features(self, features: dict[str, Features], step: Step) -> dict[str, Features]:
        """Let no gradient of the fused loss pass to the encoders."""
        return {m: own._replace(maps=tuple(x.detach() for x in own.maps)) for m, own in features.items()}
