"""Uni-modal teacher (UMT), Du et al., ICML 2023, https://arxiv.org/abs/2305.01233.

Joint training leaves encoders behind what each learns alone; so every encoder is also drawn to the features of a frozen
network that was trained on its modality alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cggm_med.config import require
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Step
from cggm_med.strategies.base import BalancingStrategy, Criterion, StrategyConfig
from cggm_med.types import Batch, Features, Outputs


@dataclass(frozen=True)
class UMTConfig(StrategyConfig):
    """Settings of UMT.

    Attributes:
        teacher: folder of a finished run of strategy ``unimodal_ensemble`` with the same network and splits.
        weight: factor on the distance to the teachers' features.
    """

    teacher: str | None = None
    weight: float = 10.0

    def __post_init__(self) -> None:
        require(self.weight >= 0, "strategy.weight", self.weight, "at least 0")


class UMT(BalancingStrategy):
    """``L = L_fused + weight * sum_m mean over scales of MSE(h_m, h_m of the teacher)``.

    A U-Net's features are the maps of all scales, a vector is one. The classifier heads only observe.
    """

    Config = UMTConfig
    description = "every encoder also imitates the features of a network trained on its modality alone"
    url = "https://arxiv.org/abs/2305.01233"
    teacher = "unimodal_ensemble"
    config: UMTConfig

    def learn_from(self, teacher: MultimodalModel) -> None:
        """Keep the network; in a tuple, since it is no part of what is trained and saved."""
        self._teacher = (teacher,)

    @torch.no_grad()
    def see(self, part: Batch, step: Step) -> None:
        """Encode the batch with the teachers."""
        self._taught = self._teacher[0].encode(part.inputs, part.present)

    def losses(
        self, model: MultimodalModel, outputs: Outputs, target: Tensor, criterion: Criterion, step: Step
    ) -> dict[str, Tensor]:
        """Those of joint training, and the distance to the teachers."""
        losses = super().losses(model, outputs, target, criterion, step)
        distances = [
            step.weigh(modality, feature_distance(own, taught), _samples(own))
            for modality, own in outputs.features.items()
            if (taught := self._taught.get(modality)) is not None
        ]
        return {**losses, "distillation": self.config.weight * torch.stack(distances).sum()}


def feature_distance(own: Features, taught: Features) -> Tensor:
    """Mean over the maps of their mean squared difference, over the samples that have the modality.

    Example:
        >>> own, taught = (Features((torch.full((2, 3), value),)) for value in (1.0, 3.0))
        >>> feature_distance(own, taught)
        tensor(4.)
    """
    rows = slice(None) if own.rows is None else own.rows
    return torch.stack([F.mse_loss(a[rows], b[rows]) for a, b in zip(own.maps, taught.maps, strict=True)]).mean()


def _samples(features: Features) -> int:
    return len(features.maps[0] if features.rows is None else features.rows)
