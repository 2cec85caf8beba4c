"""Prototypical modal rebalance (PMR), Fan et al., CVPR 2023, https://arxiv.org/abs/2211.07089, for any modalities.

A modality whose features tell their classes less well than the others', by their distance to class prototypes, is
pulled towards the prototypes; early in the run, one that is ahead is kept from becoming certain too soon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cggm_med.config import require
from cggm_med.distributed import sum_over_processes
from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.balance_scores import mean_score
from cggm_med.randomness import Step
from cggm_med.strategies.base import RECENT, BalancingStrategy, Criterion, MeasuredLosses, StrategyConfig
from cggm_med.strategies.parts.prototypes import Prototypes, class_weights, position_features, weighted_sums
from cggm_med.strategies.parts.ratios import TIE, score_ratios
from cggm_med.types import Outputs

Form = Literal["paper", "released"]


def pmr_coefficients(score: Tensor, form: Form) -> tuple[Tensor, Tensor]:
    """How strongly each modality is pulled (beta), and kept from certainty (gamma): equations 11 and 13.

    ``beta_m = clip(1 / rho_m - 1, 0, 1)`` and ``gamma_m = clip(rho_m - 1, 0, 1)``, with ``rho_m`` the score over the
    mean of the others'. With two modalities, the gamma of one is the beta of the other.

    Args:
        score: ``(modality,)``, mean probability of the true class by distance to the prototypes.
        form: ``released``: beta is 1 for every modality behind, and gamma 0.

    Example:
        >>> pmr_coefficients(torch.tensor([0.6, 0.4]), "paper")
        (tensor([0.0000, 0.5000]), tensor([0.5000, 0.0000]))
    """
    ratio = score_ratios(score)
    if form == "released":
        return (ratio < 1 - TIE).to(score.dtype), torch.zeros_like(score)
    return (1 / ratio - 1).clamp(0, 1), (ratio - 1).clamp(0, 1)


@dataclass(frozen=True)
class PMRConfig(StrategyConfig):
    """Settings of PMR.

    Attributes:
        alpha: weight of the pull; 1 is the default of the authors' code, whose scripts have 0.1 to 3 by data set.
        mu: weight of the entropy, which is raised.
        early: share of the run, at its start, in which it is.
        momentum: weight of the earlier epochs in a prototype (epsilon); 0.2 is the default of the authors' code.
        end: share of the run after which neither term acts; the authors' scripts stop after epoch 70 of 100 to 130.
        form: of the coefficients, see ``pmr_coefficients``.
    """

    alpha: float = 1.0
    mu: float = 0.01
    early: float = 0.1
    momentum: float = 0.2
    end: float = 1.0
    form: Form = "paper"

    def __post_init__(self) -> None:
        require(self.alpha >= 0, "strategy.alpha", self.alpha, "at least 0")
        require(self.mu >= 0, "strategy.mu", self.mu, "at least 0")
        require(0 <= self.momentum < 1, "strategy.momentum", self.momentum, "at least 0, below 1")
        for name in ("early", "end"):
            require(0 <= getattr(self, name) <= 1, f"strategy.{name}", getattr(self, name), "from 0 to 1")


class PMR(BalancingStrategy):
    """Pulls the modalities that are behind towards their class prototypes.

    Prototypes and coefficients come from the steps before, since a batch may be computed in parts. Features are those
    of the encoder's last map; what a class is in each kind of task, see ``class_weights``.

    Further buffers, ``(modality,)``: ``prototype_score``, the running mean of each modality's score by its prototypes
    (without bias correction), and ``compared``, the count of steps in it.
    """

    Config = PMRConfig
    description = "modalities that are behind are pulled towards the prototypes of their classes"
    url = "https://arxiv.org/abs/2211.07089"
    config: PMRConfig
    prototype_score: Tensor
    compared: Tensor

    def prepare(self, model: MultimodalModel) -> None:
        """See the base class."""
        super().prepare(model)
        self.prototypes = nn.ModuleDict({m: Prototypes() for m in model.modalities})
        for name in ("prototype_score", "compared"):
            self.register_buffer(name, torch.zeros(len(model.modalities)))
        self._batch: dict[str, list[Tensor]] = {}

    def prototypes_of(self, modality: str) -> Prototypes:
        """The prototypes of one modality."""
        found = self.prototypes[modality]
        assert isinstance(found, Prototypes)  # noqa: S101 - for the type checker
        return found

    def start_epoch(self, model: MultimodalModel, epoch: int, losses: MeasuredLosses) -> None:
        """Let the features of the epoch before enter the prototypes."""
        for modality in self.modalities:
            self.prototypes_of(modality).end_epoch(self.config.momentum)

    def observe(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> None:
        """The heads' scores are only logged; see ``combine``."""
        self._usable = usable

    def losses(
        self, model: MultimodalModel, outputs: Outputs, target: Tensor, criterion: Criterion, step: Step
    ) -> dict[str, Tensor]:
        """Also the pull, ``alpha sum_m beta_m CE_m``, and ``-mu sum_m gamma_m H_m`` early in the run."""
        losses = super().losses(model, outputs, target, criterion, step)
        if step.part == 0:
            self._batch = {}
        self._present = step.modalities(outputs.features)
        behind, ahead = self.coefficients(self._present)
        pulls, entropies = [], []
        for modality, features in outputs.features.items():
            grid = tuple(features.maps[-1].shape[2:]) if target.ndim == 5 else ()
            weights = class_weights(outputs.logits, target, grid)
            weights = weights if features.rows is None else weights[features.rows]
            own = position_features(features, weights.shape[-1])
            prototypes, found = self.prototypes_of(modality), list(weighted_sums(own, weights))
            if prototypes.known:
                near = prototypes.nearness(own, weights)
                i = self._present.index(modality)
                pulls.append(behind[i] * step.weigh(modality, near.loss, len(own)))
                entropies.append(ahead[i] * step.weigh(modality, near.entropy, len(own)))
                found.append(near.sums)
            earlier = self._batch.get(modality)
            self._batch[modality] = found if earlier is None else [a + b for a, b in zip(earlier, found, strict=True)]
        if pulls and step.progress < self.config.end:
            losses["prototypes"] = self.config.alpha * torch.stack(pulls).sum()
            if step.progress < self.config.early:
                losses["entropy"] = -self.config.mu * torch.stack(entropies).sum()
        return losses

    def coefficients(self, modalities: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Beta and gamma of these modalities, ``(modality,)``; 0 until each has been compared with its prototypes."""
        rows = self.rows(modalities)
        score = self.prototype_score / (1 - RECENT**self.compared).clamp_min(1e-8)
        known = (self.compared[rows] > 0).all()
        behind, ahead = (torch.where(known, x, 0) for x in pmr_coefficients(score[rows], self.config.form))
        return behind, ahead

    def combine(self, model: MultimodalModel) -> None:
        """Also let the features of the whole batch enter prototypes and scores, once its gradient is complete."""
        super().combine(model)
        with torch.no_grad():
            self._learn()

    def _learn(self) -> None:
        present, found = self._present, self._over_processes()
        self._batch = {}
        scores = [found[m][2] if len(found[m]) > 2 else torch.zeros(1, 3, device=self.compared.device) for m in present]
        score, compared = mean_score(torch.stack(scores))
        rows, usable = self.rows(present), self._usable & compared
        recent = RECENT * self.prototype_score[rows] + (1 - RECENT) * score
        self.keep(rows, usable, prototype_score=recent, compared=self.compared[rows] + 1)
        for modality in present:
            total, weight, *_ = found[modality]
            self.prototypes_of(modality).add(total, weight, self._usable)

    def _over_processes(self) -> dict[str, list[Tensor]]:
        """The sums of the whole batch by modality; a process may lack some that others have."""
        groups, classes = next(iter(self._batch.values()))[1].shape
        widths = {m: self._batch[m][0].shape[2] if m in self._batch else 0 for m in self._present}
        if self.incomplete:
            here = [[width, width > 0] for width in widths.values()]
            total = sum_over_processes(torch.tensor(here, dtype=torch.float64, device=self.compared.device))
            widths = {m: round(width / count) for m, (width, count) in zip(widths, total.tolist(), strict=True)}
        whole = {}
        for modality, width in widths.items():
            shapes = [(groups, classes, width), (groups, classes), (1, 3)]
            shapes = shapes if self.prototypes_of(modality).known else shapes[:2]
            sums = self._batch.get(modality) or [torch.zeros(shape, device=self.compared.device) for shape in shapes]
            flat = sum_over_processes(torch.cat([x.flatten() for x in sums]))
            parts = flat.split([x.numel() for x in sums])
            whole[modality] = [part.view_as(x) for part, x in zip(parts, sums, strict=True)]
        return whole

    def diagnostics(self) -> dict[str, Tensor]:
        """Scores by heads and by prototypes, and how strongly each modality is pulled."""
        score = self.prototype_score / (1 - RECENT**self.compared).clamp_min(1e-8)
        pull = self.config.alpha * self.coefficients(self.modalities)[0]
        return {**super().diagnostics(), "prototype_score": score, "pull": pull}
