"""What a step logs besides its losses: gradient norms, counters, and a comparison of the modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cggm_med.distributed import sum_over_processes
from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.balance_scores import ScoreSums, mean_score
from cggm_med.randomness import Step, Stream
from cggm_med.strategies.base import BalancingStrategy, Criterion
from cggm_med.strategies.parts.last_layer import cosines, last_layer_gradients
from cggm_med.strategies.parts.shapley import coalition_sums, shapley_plan, shapley_shares
from cggm_med.types import Outputs

SHAPLEY_ORDERS = 8  # random orders that estimate Shapley values of more than four modalities


class Monitor(nn.Module):
    """Gradient norms, and counters over the whole run, kept on the device.

    Buffers: ``gradient_norm`` ``(modality,)`` of each encoder in the last step, before clipping and modulation, NaN
    where no sample had the modality; ``fusion_gradient_norm`` (scalar) of all parameters that no modality owns: fusion,
    decoder and head;
    ``clipped_steps`` and ``skipped_steps`` (scalars), the numbers of steps that were clipped, and that were skipped
    because a gradient was not finite.

    Args:
        modalities: number of modalities.
    """

    gradient_norm: Tensor
    fusion_gradient_norm: Tensor
    clipped_steps: Tensor
    skipped_steps: Tensor

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.register_buffer("gradient_norm", torch.zeros(modalities), persistent=False)
        self.register_buffer("fusion_gradient_norm", torch.zeros(()), persistent=False)
        for name in ("clipped_steps", "skipped_steps"):
            self.register_buffer(name, torch.zeros(()))

    def record(
        self,
        norms: Tensor,
        fusion: Tensor,
        clipped: Tensor,
        taken: Tensor,
        absent: Sequence[int] = (),
    ) -> None:
        """Record one step; see ``optim.optimizer``.

        Args:
            norms: of each modality's gradient, from ``clip_gradients``.
            fusion: that of what no modality owns.
            clipped: whether the gradient was longer than it may be, a boolean scalar.
            taken: from ``step_if_finite``.
            absent: modalities that no sample had.
        """
        self.gradient_norm.copy_(norms)
        self.fusion_gradient_norm.copy_(fusion)
        self.gradient_norm[list(absent)] = float("nan")
        self.clipped_steps += taken & clipped
        self.skipped_steps += ~taken

    def values(self) -> dict[str, Tensor]:
        """What to log."""
        return dict(self.named_buffers())


class ModalityComparison:
    """Compares the modalities in one step, over all parts of its batch.

    Args:
        shapley: also value every subset of the modalities, which costs a prediction each.
    """

    def __init__(self, shapley: bool = False) -> None:
        self.shapley = shapley
        self.gradients: dict[str, list[Tensor]] = {}
        self.fused_sums: list[Tensor] = []
        self.coalitions: list[Tensor] = []

    def add(
        self,
        model: MultimodalModel,
        strategy: BalancingStrategy,
        outputs: Outputs,
        target: Tensor,
        criterion: Criterion,
        step: Step,
    ) -> None:
        """Add one part of the batch."""
        self.modalities, self.present = model.modalities, step.modalities(outputs.features)
        pairs = last_layer_gradients(model, outputs, target, criterion, heads=strategy.heads, step=step)
        for modality, pair in pairs.items():
            before = self.gradients.get(modality, [torch.zeros_like(x) for x in pair])
            self.gradients[modality] = [a + b / step.parts for a, b in zip(before, pair, strict=True)]
        sums: ScoreSums = strategy.score_sums
        self.fused_sums.append(sums(outputs.logits, target))
        if self.shapley:
            coalitions, self.weights = shapley_plan(
                len(self.present), SHAPLEY_ORDERS, step.generator(Stream.SHAPLEY_ORDERS)
            )
            self.coalitions.append(coalition_sums(model, outputs.features, target, sums, coalitions, self.present))

    def values(self) -> dict[str, Tensor]:
        """What to log: ``fused_score`` (scalar), ``cosine`` between each modality's and the fused gradient at the last
        layer, and ``shapley_share``, ``(modality,)`` each, NaN where a modality is missing."""
        values = {"fused_score": mean_score(sum_over_processes(torch.stack(self.fused_sums).sum(0)))[0]}
        if self.gradients:
            pairs = {m: (fused, own) for m, (fused, own) in self.gradients.items()}
            values["cosine"] = self._spread(tuple(pairs), cosines(pairs))
        if self.coalitions:
            score, _ = mean_score(sum_over_processes(torch.stack(self.coalitions).sum(0)))
            values["shapley_share"] = self._spread(self.present, shapley_shares(self.weights.to(score.device) @ score))
        return values

    def _spread(self, present: Sequence[str], values: Tensor) -> Tensor:
        whole = torch.full((len(self.modalities),), float("nan"), device=values.device)
        whole[[self.modalities.index(m) for m in present]] = values
        return whole


def coverage(model: MultimodalModel, strategy: BalancingStrategy) -> dict[str, object]:
    """The parameters of each modality, which a strategy modulates, and all others, those of the network's heads too."""
    names = {id(p): name for name, p in model.named_parameters()}
    covered = {m: [names[id(p)] for p in model.modality_parameters(m)] for m in model.modalities}
    owned = {name for of_modality in covered.values() for name in of_modality}
    return {
        "strategy": strategy.config.name,
        "modulates": strategy.modulates,
        "modalities": covered,
        "shared": [name for name in names.values() if name not in owned],
    }


def readable(diagnostics: Mapping[str, Tensor], modalities: tuple[str, ...]) -> dict[str, Any]:
    """Diagnostics as numbers: a vector by modality, a scalar as it is; None where undefined."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None  # JSON has no NaN

    return {
        name: dict(zip(modalities, map(number, value.tolist()), strict=True)) if value.ndim else number(value.item())
        for name, value in diagnostics.items()
    }
