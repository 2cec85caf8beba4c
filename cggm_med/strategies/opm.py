"""On-the-fly prediction modulation (OPM), Wei et al., T-PAMI 2024, https://arxiv.org/abs/2410.11582.

Features of a modality that predicts better than the others are left out of the fusion at random, more often the further
it is ahead, so that the fused prediction learns to do without them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cggm_med.config import require
from cggm_med.objectives.subsets import drop_modalities
from cggm_med.randomness import Step, Stream
from cggm_med.strategies.base import BalancingStrategy, StrategyConfig
from cggm_med.strategies.parts.ratios import TIE, score_ratios
from cggm_med.types import Features


def drop_rates(score: Tensor, drop_base: float, growth: float) -> Tensor:
    """How often each modality is left out: ``min(drop_base (1 + growth tanh(rho - 1)), 1)`` where ``rho > 1``, else 0.

    ``rho_m`` is the score over the mean of the others'.

    Args:
        score: ``(modality,)``.
        drop_base: rate just above a tie.
        growth: largest relative increase of that rate.

    Returns:
        ``(modality,)`` in [0, 1].

    Example:
        >>> drop_rates(torch.tensor([0.6, 0.3]), drop_base=0.5, growth=0.5)
        tensor([0.6904, 0.0000])
    """
    lead = torch.tanh((score_ratios(score) - 1).clamp_min(0))
    return torch.where(lead > TIE, (drop_base * (1 + growth * lead)).clamp_max(1), 0)


@dataclass(frozen=True)
class OPMConfig(StrategyConfig):
    """Settings of OPM; defaults are the paper's.

    Attributes:
        drop_base: rate at which a modality just ahead of the others is left out (q_base).
        growth: how much the rate grows with the lead (lambda).
        probability: share of the steps in which anything is left out.
        warmup: share of the run, at its start, in which nothing is left out; the paper waits 6 of 100 epochs.
    """

    drop_base: float = 0.5
    growth: float = 0.5
    probability: float = 0.7
    warmup: float = 0.06

    def __post_init__(self) -> None:
        require(0 <= self.drop_base <= 1, "strategy.drop_base", self.drop_base, "from 0 to 1")
        require(self.growth >= 0, "strategy.growth", self.growth, "at least 0")
        require(0 <= self.probability <= 1, "strategy.probability", self.probability, "from 0 to 1")
        require(0 <= self.warmup < 1, "strategy.warmup", self.warmup, "at least 0, below 1")


class OPM(BalancingStrategy):
    """Leaves out the modality that predicts best, for whole samples and at all scales alike.

    Running means of the scores up to the previous step are compared: those of this batch would be known too late when
    it is computed in parts, and rates would depend on the number of parts. Scores are as in OGM. Nothing is left out
    in prediction.
    """

    Config = OPMConfig
    description = "the modality that predicts best is left out of the fusion at random"
    url = "https://arxiv.org/abs/2410.11582"
    from_shares = True
    config: OPMConfig

    def adapt_features(self, features: dict[str, Features], step: Step) -> dict[str, Features]:
        """Leave features out in a random share of the steps after the warm-up."""
        on = torch.rand((), generator=step.generator(Stream.OPM_STEPS)).item() < self.config.probability
        if not on or step.progress < self.config.warmup:
            return features
        rows = self.rows(features)
        rates = drop_rates(self.recent_score[rows], self.config.drop_base, self.config.growth)
        # No modality is ahead of one that has not been scored yet.
        rates = torch.where((self.seen[rows] > 0).all(), rates, 0)
        return drop_modalities(features, rates, step, Stream.OPM_FEATURES)

    def diagnostics(self) -> dict[str, Tensor]:
        """Each modality's score, and its rate in a step that leaves features out."""
        return {
            **super().diagnostics(),
            "drop_rate": drop_rates(self.recent_score, self.config.drop_base, self.config.growth),
        }
