"""How much memory the training of a segmentation network is expected to take, said before its first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cggm_med import registry
from cggm_med.models.encoders import UNetEncoder, halving
from cggm_med.task.base import Task
from cggm_med.task.footprint import Axes, Footprint, Network, footprint
from cggm_med.task.segmentation import SegmentationTask


@dataclass(frozen=True)
class ExpectedMemory:
    """What the process of a training will hold on its device.

    Attributes:
        footprint: of a step.
        held: bytes that the process holds besides, see ``device.held_bytes``.

    Example:
        >>> str(ExpectedMemory(Footprint(1_000_000, 12_000_000, 300_000_000, 0), held=500_000_000))
        'about 0.81 GB: weights and optimizer 0.01, a step 0.30, the rest of the process 0.50'
    """

    footprint: Footprint
    held: int

    def __str__(self) -> str:
        state, work, held = (n / 1e9 for n in (self.footprint.state, self.footprint.activations, self.held))
        return (
            f"about {state + work + held:.2f} GB: weights and optimizer {state:.2f}, a step {work:.2f}, "
            f"the rest of the process {held:.2f}"
        )


def expected_memory(task: Task, device: torch.device, held: int) -> ExpectedMemory | None:
    """What training will hold; None for a task or an encoder whose footprint is not known.

    Args:
        task: with its settings; its data need not be prepared.
        device: where it trains.
        held: bytes that the process holds there before.
    """
    if not isinstance(task, SegmentationTask):
        return None
    model, train = task.config.model, task.config.train
    if registry.load(registry.ENCODERS, model.encoder) is not UNetEncoder:
        return None
    strides, kernels = scales_of(task)
    network = Network(
        len(task.modalities),
        len(task.targets),
        task.exclusive,
        tuple(model.channels),
        tuple(strides),
        tuple(kernels),
        model.deep_supervision,
        model.fusion,
    )
    low_precision = device.type == "cuda" and train.precision != "float32"
    part = max(1, train.batch_size // train.accumulate)
    return ExpectedMemory(footprint(network, task.patch_size, part, low_precision=low_precision), held)


def scales_of(task: SegmentationTask) -> tuple[list[Axes], list[Axes]]:
    """Strides and kernels of each scale of the network, also where the settings leave them to the encoder."""
    model, depth = task.config.model, len(task.channels)
    strides = model.strides or [(s, s, s) for s in halving(task.channels)]
    return list(strides), list(model.kernels or [(3, 3, 3)] * depth)
