"""The words of the house: what travels between data, model, strategy and engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Features(NamedTuple):
    """What one modality's encoder found.

    Attributes:
        maps: feature maps, finest first: ``(batch, channel, x, y, z)`` for volumes, ``(batch, channel)`` for vectors.
        present: ``(batch,)`` booleans, False where this sample lacks the modality; None where no sample does.
    """

    maps: tuple[Tensor, ...]
    present: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Samples to train on.

    Attributes:
        inputs: one tensor a modality, such as ``(batch, 1, x, y, z)``.
        target: what is learned, such as ``(batch, region, x, y, z)`` with values 0 and 1.
        ids: the case that each sample comes from.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    ids: tuple[str, ...]

    def split(self, parts: int) -> tuple[Batch, ...]:
        """The same samples in equal parts, for gradient accumulation.

        Raises:
            ValueError: if the samples cannot be shared out equally.
        """
        if parts == 1:
            return (self,)
        size, rest = divmod(len(self.target), parts)
        if rest or not size:
            raise ValueError(f"{len(self.target)} samples cannot be split into {parts} equal parts")
        slices = [slice(start, start + size) for start in range(0, len(self.target), size)]
        return tuple(Batch({m: x[s] for m, x in self.inputs.items()}, self.target[s], self.ids[s]) for s in slices)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from where it reaches a GPU without the CPU waiting."""
        inputs = {modality: x.pin_memory() for modality, x in self.inputs.items()}
        return Batch(inputs, self.target.pin_memory(), self.ids)

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        inputs = {modality: x.to(device, non_blocking=True) for modality, x in self.inputs.items()}
        return Batch(inputs, self.target.to(device, non_blocking=True), self.ids)


class UnimodalOutput(NamedTuple):
    """What one modality's classifier head made of that modality's features.

    Attributes:
        hidden: what the head's last layer reads, ``(batch, channel, ...)``.
        logits: its prediction, ``(batch, target, ...)``.
    """

    hidden: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Outputs:
    """What a model computed in one step.

    Attributes:
        features: each present modality's features, all of them, whatever was left out of the fusion.
        fused: the features after fusion and decoder, finest first; the head reads ``fused[0]``.
        logits: the prediction before the sigmoid or softmax.
        deep_logits: predictions at coarser scales, for deep supervision; empty without it.
        unimodal: each present modality's own prediction; empty without classifier heads.
    """

    features: dict[str, Features]
    fused: tuple[Tensor, ...]
    logits: Tensor
    deep_logits: tuple[Tensor, ...] = ()
    unimodal: dict[str, UnimodalOutput] = field(default_factory=dict)
