"""Adaptive gradient modulation (AGM), Li et al., ICCV 2023, https://arxiv.org/abs/2308.07686, with scores from heads.

A modality that is further ahead of the others than it used to be gets smaller updates, one that is less far ahead
larger ones: each is held to its own habitual lead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cggm_med.config import require
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Step
from cggm_med.strategies.base import FactorStrategy, StrategyConfig


def agm_factors(score: Tensor, habitual: Tensor, alpha: float) -> Tensor:
    """``exp(alpha (t_m - r_m))`` with ``r_m = exp(M/(M-1) (s_m - mean s))``, and t_m the same of the habitual scores.

    ``M/(M-1) (s_m - mean s)`` is the lead over the mean of the others. Scores lie in [0, 1], leads in [-1, 1], so a
    factor lies within exp(-2.36 alpha) and exp(2.36 alpha).

    Args:
        score: ``(modality,)`` of this step, in [0, 1].
        habitual: ``(modality,)``, mean of all scores so far.
        alpha: strength, at least 0.

    Example:
        >>> agm_factors(torch.tensor([0.6, 0.2]), torch.tensor([0.4, 0.2]), alpha=1.0)
        tensor([0.7631, 1.1600])
    """
    modalities = len(score)
    if modalities == 1:
        return torch.ones_like(score)

    def ratio(values: Tensor) -> Tensor:
        return torch.exp(modalities / (modalities - 1) * (values - values.mean()))

    return torch.exp(alpha * (ratio(habitual) - ratio(score)))


@dataclass(frozen=True)
class AGMConfig(StrategyConfig):
    """Settings of AGM.

    Attributes:
        alpha: strength.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 10, "strategy.alpha", self.alpha, "from 0 to 10")


class AGM(FactorStrategy):
    """Holds each modality to its habitual lead.

    The paper scores a modality by the fused logits with and without it and their cross-entropy, which costs a forward
    pass for each subset and has no bound. Here the score is that of its classifier head, which only observes.

    Further buffers, ``(modality,)``: ``total`` of all scores, and ``count`` of the steps in it.
    """

    Config = AGMConfig
    description = "each modality is held to its habitual lead over the others"
    url = "https://arxiv.org/abs/2308.07686"
    config: AGMConfig
    total: Tensor
    count: Tensor

    def prepare(self, model: MultimodalModel) -> None:
        """See the base class."""
        super().prepare(model)
        for name in ("total", "count"):
            self.register_buffer(name, torch.zeros(len(model.modalities)))

    def factors(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> Tensor:
        """See ``agm_factors``."""
        self.keep(rows, usable, total=self.total[rows] + score, count=self.count[rows] + 1)
        habitual = self.total[rows] / self.count[rows].clamp_min(1)
        return agm_factors(score, habitual, self.config.alpha)
