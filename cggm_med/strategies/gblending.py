"""Gradient blending (G-Blending), Wang et al., CVPR 2020, https://arxiv.org/abs/1905.12681, measured in the run itself.

The fused loss and each modality's own are weighted by how much they fell on validation cases, over the square of how
much further training and validation losses drifted apart meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cggm_med.config import require
from cggm_med.models.base import MultimodalModel
from cggm_med.strategies.base import BalancingStrategy, MeasuredLosses, StrategyConfig

# Below it, a change of the gap between two losses is what a mean of a few cases leaves to chance.
MIN_OVERFITTING = 1e-4


def blending_weights(train: Tensor, validation: Tensor) -> Tensor:
    """``w = G / O^2``, divided by its sum: equation 4, and algorithm 1.

    ``G`` is how much the validation loss fell, and ``O`` how much its distance to the training loss grew.

    Args:
        train: ``(2, loss)``, before and after.
        validation: the same.

    Returns:
        ``(loss)``, 0 where the validation loss rose; all 0 where every one rose.

    Example:
        >>> blending_weights(torch.tensor([[1.0, 1.0], [0.5, 0.7]]), torch.tensor([[1.0, 1.0], [0.7, 0.8]]))
        tensor([0.2727, 0.7273])
    """
    generalisation = (validation[0] - validation[1]).clamp_min(0)
    overfitting = (validation[1] - train[1]) - (validation[0] - train[0])
    weights = generalisation / overfitting.abs().clamp_min(MIN_OVERFITTING) ** 2
    return weights / torch.where(weights.sum() > 0, weights.sum(), 1)


@dataclass(frozen=True)
class GBlendingConfig(StrategyConfig):
    """Settings of G-Blending.

    Attributes:
        super_epoch: epochs between two measurements, after each of which the weights are set.
        floor: share of an equal weight that each loss keeps; a loss without weight would not be trained, and could not
            show again that it generalises.
    """

    super_epoch: int = 10
    floor: float = 0.1

    def __post_init__(self) -> None:
        require(self.super_epoch >= 1, "strategy.super_epoch", self.super_epoch, "at least 1")
        require(0 <= self.floor <= 1, "strategy.floor", self.floor, "from 0 to 1")


class GBlending(BalancingStrategy):
    """Weighs the fused loss and each modality's own, which trains its encoder in full.

    To measure, the paper trains a copy of the network for each loss alone, from the same start. Here the losses of the
    one network are measured, and what a super-epoch has shown holds for the next. All weigh the same before.

    Further buffers, ``(1 + modality,)`` with the fused loss first: ``weight``, and of the last measurement
    ``train_loss``, ``validation_loss`` and ``measured``, whether there was one.
    """

    Config = GBlendingConfig
    description = "losses weighted by how they generalise and overfit, measured every few epochs"
    url = "https://arxiv.org/abs/1905.12681"
    controls = (*BalancingStrategy.controls, "uniform_full")
    modulates = True
    measures_losses = True
    unimodal_weight = 1.0  # the unimodal losses reach the encoders in full
    config: GBlendingConfig
    weight: Tensor
    train_loss: Tensor
    validation_loss: Tensor
    measured: Tensor

    def prepare(self, model: MultimodalModel) -> None:
        """See the base class."""
        super().prepare(model)
        count = 1 + len(model.modalities)
        self.register_buffer("weight", torch.full((count,), 1 / count))
        for name in ("train_loss", "validation_loss", "measured"):
            self.register_buffer(name, torch.zeros(count))

    def start_epoch(self, model: MultimodalModel, epoch: int, losses: MeasuredLosses) -> None:
        """At the start of a super-epoch, measure, and weigh by what changed since the last time."""
        if epoch % self.config.super_epoch == 0:
            self.blend(self._in_order(losses("train")), self._in_order(losses("validation")))

    def _in_order(self, losses: Mapping[str, Tensor]) -> Tensor:
        """NaN where no case has the modality."""
        unknown = torch.full_like(losses["task"], float("nan"))
        return torch.stack([losses.get(name, unknown) for name in ("task", *self.modalities)]).float()

    def blend(self, train: Tensor, validation: Tensor) -> None:
        """Set the weights; those of losses that were not measured twice stay, and so do all if no loss fell.

        Args:
            train: ``(1 + modality,)`` losses of training cases, the fused one first, NaN where unknown.
            validation: the same of validation cases.
        """
        known = torch.isfinite(train) & torch.isfinite(validation)
        twice = known & (self.measured > 0)
        before = (torch.where(twice, x, 0) for x in (self.train_loss, self.validation_loss))
        now = (torch.where(twice, x, 0) for x in (train, validation))
        shares = blending_weights(*(torch.stack(pair) for pair in zip(before, now, strict=True)))
        floored = (1 - self.config.floor) * shares + self.config.floor * twice / twice.sum().clamp_min(1)
        new = torch.where(twice, floored * torch.where(twice, self.weight, 0).sum(), self.weight)
        self.weight.copy_(torch.where(shares.sum() > 0, new, self.weight))
        self.train_loss.copy_(torch.where(known, train, self.train_loss))
        self.validation_loss.copy_(torch.where(known, validation, self.validation_loss))
        self.measured.copy_(torch.where(known, 1, self.measured))

    def backward(self, losses: Mapping[str, Tensor], model: MultimodalModel) -> None:
        """One backward pass of the weighted sum; whatever is no modality's own loss is part of the fused one."""
        weights = dict(zip(self.modalities, self.weight[1:].unbind(), strict=True))
        super().backward({name: weights.get(name, self.weight[0]) * loss for name, loss in losses.items()}, model)

    def diagnostics(self) -> dict[str, Tensor]:
        """Each modality's score, and the weights."""
        return {**super().diagnostics(), "weight": self.weight[1:].clone(), "fused_weight": self.weight[0].clone()}
