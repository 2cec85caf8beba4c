"""Adaptive gradient modulation (AGM), Li et al., ICCV 2023, https://arxiv.org/abs/2308.07686.

A modality that is further ahead of the others than it used to be gets smaller updates, one that is less far ahead
larger ones: each is held to its own habitual lead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from cggm_med.config import Tree, require
from cggm_med.distributed import sum_over_processes, world_size
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Step, Stream
from cggm_med.strategies.base import Criterion, FactorStrategy, StrategyConfig
from cggm_med.strategies.parts.shapley import shapley_responses
from cggm_med.types import Outputs

ORDERS = 8  # random orders by which the responses of more than four modalities are estimated


def agm_factors(score: Tensor, habitual: Tensor, alpha: float, cap: float = 10.0) -> Tensor:
    """``exp(alpha min(t_m - r_m, cap))`` with ``r_m = exp(M/(M-1) (s_m - mean s))``, and t_m of the habitual scores.

    ``M/(M-1) (s_m - mean s)`` is the lead over the mean of the others.

    Args:
        score: ``(modality,)`` of this step, higher is better.
        habitual: ``(modality,)``, mean of the scores so far.
        alpha: strength, at least 0.
        cap: largest ``t_m - r_m``.

    Example:
        >>> agm_factors(torch.tensor([0.6, 0.2]), torch.tensor([0.4, 0.2]), alpha=1.0)
        tensor([0.7631, 1.1600])
    """
    modalities = len(score)
    if modalities == 1:
        return torch.ones_like(score)

    def ratio(values: Tensor) -> Tensor:
        return torch.exp(modalities / (modalities - 1) * (values - values.mean()))

    return torch.exp(alpha * (ratio(habitual) - ratio(score)).clamp_max(cap))


@dataclass(frozen=True)
class AGMConfig(StrategyConfig):
    """Settings of AGM.

    Attributes:
        alpha: strength; the authors name 1.5 for CREMA-D (https://github.com/lihongcs/AGM/issues/3).
        score: what modalities are compared by: minus the ``loss`` of each one's part of the fused logits, as in the
            paper, or the balance score of its classifier ``head``, which is bounded.
        habit: the mean of the scores ``before`` this step, as in the authors' code, or ``with`` that of this step.
        cap: largest excess of the habitual over the present ratio that counts; the factor is at most exp(alpha cap).
    """

    alpha: float = 1.0
    score: Literal["loss", "head"] = "loss"
    habit: Literal["before", "with"] = "before"
    cap: float = 10.0

    UNSTATED: ClassVar[Tree] = {"score": "head", "habit": "with"}

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 10, "strategy.alpha", self.alpha, "from 0 to 10")
        require(self.cap > 0, "strategy.cap", self.cap, "more than 0")


class AGM(FactorStrategy):
    """Holds each modality to its habitual lead.

    The fused logits are shared out among the modalities by Shapley values, and a modality's score is minus the loss of
    its part. That takes a prediction from each subset of the modalities in every step, unless the head is linear in the
    concatenated features. The classifier heads only observe.

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
        self._losses: dict[str, Tensor] = {}
        self._usable = torch.tensor(False)

    def observe(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> None:
        """Set the factors by the heads' scores, or remember whether this batch can be scored at all."""
        self._usable = usable
        if self.config.score == "head":
            super().observe(rows, score, usable, step)

    def losses(
        self, model: MultimodalModel, outputs: Outputs, target: Tensor, criterion: Criterion, step: Step
    ) -> dict[str, Tensor]:
        """Those of joint training; also sets the factors, by the loss of each modality's part of the fused logits."""
        if self.config.score == "loss":
            self._add_responses(model, outputs, target, criterion, step)
            if step.last:
                self._compare(step.modalities(outputs.features))
        return super().losses(model, outputs, target, criterion, step)

    def factors(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> Tensor:
        """See ``agm_factors``."""
        return self._factors(rows, score, usable)

    @torch.no_grad()
    def _add_responses(
        self, model: MultimodalModel, outputs: Outputs, target: Tensor, criterion: Criterion, step: Step
    ) -> None:
        players, generator = step.modalities(outputs.features), step.generator(Stream.SHAPLEY_ORDERS)
        responses = shapley_responses(model, outputs.features, players, ORDERS, generator)
        for modality, response in responses.items():
            rows = outputs.features[modality].rows
            logits, truth = (response, target) if rows is None else (response[rows], target[rows])
            loss = step.weigh(modality, criterion(logits, truth), len(logits)).float() / step.parts
            self._losses[modality] = self._losses[modality] + loss if modality in self._losses else loss

    @torch.no_grad()
    def _compare(self, present: tuple[str, ...]) -> None:
        nothing = torch.zeros_like(self.total[0])
        losses = torch.stack([self._losses.get(m, nothing) for m in present])
        self._losses = {}
        score = -sum_over_processes(losses) / world_size()
        usable, rows = self._usable & torch.isfinite(score).all(), self.rows(present)
        self.set_factors(rows, self._factors(rows, score, usable), usable)

    def _factors(self, rows: Any, score: Tensor, usable: Tensor) -> Tensor:
        before, after = (self.total[rows], self.count[rows]), (self.total[rows] + score, self.count[rows] + 1)
        total, count = before if self.config.habit == "before" else after
        # Nobody is used to a lead over a modality that has not been scored yet.
        habitual = torch.where((count > 0).all(), total / count.clamp_min(1), 0)
        self.keep(rows, usable, total=after[0], count=after[1])
        return agm_factors(score, habitual, self.config.alpha, self.config.cap)
