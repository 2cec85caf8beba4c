"""Uniform multitask training: the fused loss plus every modality's own; the control for all other strategies.

The ablation of MMPareto (Wei and Hu, ICML 2024, https://arxiv.org/abs/2405.17730): unimodal losses, no balancing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cggm_med.config import Tree, require
from cggm_med.strategies.base import BalancingStrategy, StrategyConfig


@dataclass(frozen=True)
class UniformConfig(StrategyConfig):
    """Settings.

    Attributes:
        unimodal_weight: factor on the heads' gradient that reaches the encoders.
    """

    unimodal_weight: float = 0.3

    def __post_init__(self) -> None:
        require(self.unimodal_weight >= 0, "strategy.unimodal_weight", self.unimodal_weight, "at least 0")


class Uniform(BalancingStrategy):
    """The loss of each classifier head also trains its encoder; nothing is modulated."""

    Config = UniformConfig
    description = "joint training plus each modality's own loss through its encoder: the control to beat"
    url = "https://arxiv.org/abs/2405.17730"
    config: UniformConfig

    @property
    def unimodal_weight(self) -> float:
        """See the settings."""
        return self.config.unimodal_weight


class ResidualDropout(Uniform):
    """For scans that may be missing: in a network that predicts over its heads, with an annealed dropout."""

    description = "uniform with model.fusion=residual and a dropout of modalities that ends at 0: for missing scans"
    url = ""
    controls: ClassVar[Sequence[str]] = (*Uniform.controls, "uniform")

    @classmethod
    def settings_for(cls, task: str) -> Tree:
        """The fusion, and the dropout's rate, draw and schedule."""
        dropout = {"modality_dropout": 0.5, "modality_dropout_draw": "subset", "modality_dropout_schedule": "annealed"}
        return {"model": {"fusion": "residual"}, "train": dropout}


class UniformFull(BalancingStrategy):
    """The heads' losses reach the encoders in full, as in ``mmpareto`` and ``dgs``, whose control it is."""

    description = "joint training plus each modality's own loss in full: the control of mmpareto and dgs"
    url = "https://arxiv.org/abs/2405.17730"
    unimodal_weight = 1.0
