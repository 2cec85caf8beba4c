"""Dynamic gradient shaping (DGS), https://github.com/G22-web/DGS, as designed: Shapley shares, factors and MMPareto.

Each modality's share of the fused prediction is its Shapley value; a modality with more than its equal share gets
smaller updates, and each encoder's own gradient and the fused one are combined as in MMPareto. For what the authors'
code does instead, see ``docs/explanation/algorithms.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cggm_med.config import require
from cggm_med.distributed import sum_over_processes
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.objectives.balance_scores import mean_score
from cggm_med.optim.optimizer import scale_updates
from cggm_med.randomness import Step, Stream
from cggm_med.strategies.base import FactorStrategy, StrategyConfig
from cggm_med.strategies.parts.gradient_noise import add_gradient_noise, gradient_spreads
from cggm_med.strategies.parts.pareto import ParetoGradients, Rescale
from cggm_med.strategies.parts.shapley import coalition_sums, shapley_plan, shapley_shares
from cggm_med.types import Outputs


def dgs_factors(share: Tensor, alpha: float) -> Tensor:
    """``1 - tanh(alpha max(M share_m - 1, 0))``: damps every modality with more than an equal share.

    Args:
        share: ``(modality,)``, whose magnitudes sum to 1.
        alpha: strength, at least 0.

    Example:
        >>> dgs_factors(torch.tensor([0.7, 0.3]), alpha=0.6)
        tensor([0.7645, 1.0000])
    """
    return 1 - torch.tanh(alpha * (len(share) * share - 1).clamp_min(0))


@dataclass(frozen=True)
class DGSConfig(StrategyConfig):
    """Settings of DGS.

    Attributes:
        alpha: strength of the factors; 0.6 is the authors' value.
        gamma: factor on each encoder's update, as in MMPareto.
        rescale: see MMPareto.
        every: steps between two valuations, each of which predicts from every subset of the modalities.
        orders: random orders by which more than four modalities are valued.
        noise: add Gaussian noise to the gradients, as in OGM-GE.
    """

    alpha: float = 0.6
    gamma: float = 1.0
    rescale: Rescale = "encoder"
    every: int = 10
    orders: int = 8
    noise: bool = False

    def __post_init__(self) -> None:
        require(self.alpha >= 0, "strategy.alpha", self.alpha, "at least 0")
        require(self.gamma > 0, "strategy.gamma", self.gamma, "more than 0")
        require(self.every >= 1, "strategy.every", self.every, "at least 1")
        require(self.orders >= 1, "strategy.orders", self.orders, "at least 1")


class DGS(FactorStrategy):
    """Shapley shares of the fused score, graded factors, and MMPareto.

    Further buffer: ``share`` ``(modality,)``.
    """

    Config = DGSConfig
    description = "Shapley shares decide each encoder's factor, on top of MMPareto"
    url = "https://github.com/G22-web/DGS"
    controls = (*FactorStrategy.controls, "uniform_full", "mmpareto_unscaled")
    unimodal_weight = 1.0  # the unimodal losses reach the encoders in full
    config: DGSConfig
    heads: UnimodalHeads
    share: Tensor

    def prepare(self, model: MultimodalModel) -> None:
        """See the base class."""
        super().prepare(model)
        count = len(model.modalities)
        self.pareto = ParetoGradients(count, self.config.rescale)
        self.register_buffer("share", torch.full((count,), 1 / count))
        self._coalition_sums: list[Tensor] = []

    def watch(self, model: MultimodalModel, outputs: Outputs, target: Tensor, step: Step) -> None:
        """Score the heads, and every ``every`` steps value all coalitions."""
        super().watch(model, outputs, target, step)
        if step.number % self.config.every:
            return
        players = step.modalities(outputs.features)
        coalitions, weights = shapley_plan(len(players), self.config.orders, step.generator(Stream.SHAPLEY_ORDERS))
        sums = coalition_sums(model, outputs.features, target, self.score_sums, coalitions, players)
        self._coalition_sums.append(sums)
        if step.last:
            score, usable = mean_score(sum_over_processes(torch.stack(self._coalition_sums).sum(0)))
            self._coalition_sums = []
            self.value(self.rows(players), weights.to(score.device) @ score, usable)

    def value(self, rows: Any, values: Tensor, usable: Tensor) -> None:
        """Set shares and factors from Shapley values."""
        share = shapley_shares(values)
        self.keep(rows, usable, share=share)
        self.set_factors(rows, dgs_factors(share, self.config.alpha), usable)

    def observe(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> None:
        """The heads' scores are only logged."""

    def backward(self, losses: Mapping[str, Tensor], model: MultimodalModel) -> None:
        """As in MMPareto."""
        self.pareto.backward(losses, model, self.heads)

    def combine(self, model: MultimodalModel) -> None:
        """As in MMPareto."""
        super().combine(model)
        self.pareto.combine(model, some_lack=self.incomplete)

    def modulate(self, model: MultimodalModel, optimizer: Optimizer, step: Step) -> None:
        """Scale each encoder's update by gamma and its factor, then add noise if ``noise`` is set."""
        spreads = gradient_spreads(model) if self.config.noise else None
        factors = (self.config.gamma * self.factor).unbind()
        scale_updates(optimizer, dict(zip(self.modalities, factors, strict=True)))
        if spreads is not None:
            add_gradient_noise(model, spreads, step)

    def diagnostics(self) -> dict[str, Tensor]:
        """Scores, factors, Shapley shares and conflicts."""
        own = {"shapley_share": self.share.clone(), "conflict_cosine": self.pareto.cosine.clone()}
        return {**super().diagnostics(), **own}
