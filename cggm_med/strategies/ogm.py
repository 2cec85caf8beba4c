"""On-the-fly gradient modulation (OGM, OGM-GE), Peng et al., CVPR 2022, https://arxiv.org/abs/2203.15332.

A modality that predicts better than the others gets smaller updates, so that the others can catch up; with
generalisation enhancement (GE), Gaussian noise with each gradient's own spread compensates for the lost noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from cggm_med.config import require
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Step
from cggm_med.strategies.base import FactorStrategy, StrategyConfig
from cggm_med.strategies.parts.gradient_noise import add_gradient_noise, gradient_spreads
from cggm_med.strategies.parts.ratios import TIE, score_ratios

# Epochs of 100 in which the papers' code modulates, both included, as shares of the run: 0 to 50, and 6 to 60.
SCHEDULES = {"whole": (0.0, 1.0), "cvpr": (0.0, 0.51), "tpami": (0.06, 0.61)}


def ogm_factors(score: Tensor, alpha: float, form: str = "paper") -> Tensor:
    """Factors that damp every modality whose score is above the mean of the others.

    ``rho_m = s_m / mean of the other s_k``. The paper: ``k_m = 1 - tanh(alpha rho_m)`` where ``rho_m > 1``, else 1:
    it jumps at a tie. Continuous: ``k_m = 1 - tanh(alpha max(rho_m - 1, 0))``. For two modalities, rho is the paper's.

    Args:
        score: ``(modality,)``, at least 0, higher is better.
        alpha: strength, at least 0.
        form: ``paper`` or ``continuous``.

    Returns:
        ``(modality,)`` in [0, 1].

    Example:
        >>> ogm_factors(torch.tensor([0.6, 0.3]), alpha=0.5)
        tensor([0.2384, 1.0000])
        >>> ogm_factors(torch.tensor([0.6, 0.3]), alpha=0.5, form="continuous")
        tensor([0.5379, 1.0000])
    """
    ratio = score_ratios(score)
    if form == "paper":
        return torch.where(ratio > 1 + TIE, 1 - torch.tanh(alpha * ratio), 1)
    return 1 - torch.tanh(alpha * (ratio - 1).clamp_min(0))


@dataclass(frozen=True)
class OGMConfig(StrategyConfig):
    """Settings of OGM and OGM-GE.

    Attributes:
        alpha: strength; the paper has 0.1 for VGGSound and 0.8 for CREMA-D.
        form: ``paper``, which jumps at a tie, or ``continuous``, which does not.
        schedule: when factors are applied: in the ``whole`` run, as in the paper of CVPR 2022 (``cvpr``: epochs 0 to 50
            of 100), or as in that of T-PAMI 2024 (``tpami``: epochs 6 to 60 of 100).
        start: share of the run after which they are; that of the schedule.
        end: share of the run until which they are; that of the schedule.
    """

    alpha: float = 0.8
    form: Literal["paper", "continuous"] = "paper"
    schedule: Literal["whole", "cvpr", "tpami"] = "whole"
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        start, end = self.modulated
        for name, value in (("start", start), ("end", end)):
            object.__setattr__(self, name, value)  # so that the run's settings show what was used
        require(self.alpha >= 0, "strategy.alpha", self.alpha, "at least 0")
        require(0 <= start < 1, "strategy.start", start, "at least 0, below 1")
        require(start < end <= 1, "strategy.end", end, "more than strategy.start, at most 1")

    @property
    def modulated(self) -> tuple[float, float]:
        """The part of the run in which factors are applied, from and until which share of it."""
        start, end = SCHEDULES[self.schedule]
        return start if self.start is None else self.start, end if self.end is None else self.end


class OGM(FactorStrategy):
    """Damps the modality that predicts best.

    A modality is scored by its share of a linear fused head where there is one, as in the paper, otherwise by its
    classifier head, which only observes.
    """

    Config = OGMConfig
    description = "smaller updates for the modality that predicts best"
    url = "https://arxiv.org/abs/2203.15332"
    controls: ClassVar[Sequence[str]] = FactorStrategy.controls
    from_shares = True
    config: OGMConfig

    def active(self, step: Step) -> bool:
        """Whether this step is within the part of the run that is modulated."""
        start, end = self.config.modulated
        return start <= step.progress < end

    def factors(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> Tensor:
        """See ``ogm_factors``."""
        if not self.active(step):
            return torch.ones_like(score)
        return ogm_factors(score, self.config.alpha, self.config.form)

    def modulate(self, model: MultimodalModel, optimizer: Optimizer, step: Step) -> None:
        """Scale each encoder's update by its factor, within the part of the run that is modulated."""
        if self.active(step):
            super().modulate(model, optimizer, step)


class OGMGE(OGM):
    """OGM, and noise on the gradients of every modality, damped or not: ``k_m g_m + N(0, std(g_m)^2)``.

    The standard deviation is that of each gradient tensor after clipping and before the factor. With AdamW the factor
    multiplies the learning rate, so it scales the noise as well.
    """

    description = "OGM, and Gaussian noise as large as each gradient's own spread"
    controls = (*FactorStrategy.controls, "ogm")

    def modulate(self, model: MultimodalModel, optimizer: Optimizer, step: Step) -> None:
        """Scale, then add noise."""
        if not self.active(step):
            return
        spreads = gradient_spreads(model)
        super().modulate(model, optimizer, step)
        add_gradient_noise(model, spreads, step)
