"""What a training step of a segmentation network takes: memory, and multiplications and additions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cggm_med import registry
from cggm_med.models.encoders import UNetEncoder
from cggm_med.models.heads import UnimodalHeads, VoxelwiseHead
from cggm_med.models.peak_memory import peak_bytes
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.objectives.region_loss import RegionLoss

Axes = tuple[int, int, int]
# Bytes a parameter. Adam keeps two numbers; gradients are made by the step and counted there.
_STATE = 4 + 8
# In bfloat16 the step is counted with gradients of two bytes, in place of the copies of the weights that autocast
# makes; the gradients themselves have four.
_STATE_LOW = _STATE + 4


@dataclass(frozen=True)
class Network:
    """A network and what it is trained on, as far as memory and time depend on it.

    Attributes:
        modalities: number of encoders.
        regions: number of regions.
        exclusive: whether the regions exclude one another.
        channels: of each scale, finest first.
        strides: of each scale, along x, y, z.
        kernels: of each scale.
        deep_supervision: whether it also learns from predictions at coarser scales.
        fusion: registered name.
    """

    modalities: int
    regions: int
    exclusive: bool
    channels: tuple[int, ...] = ()
    strides: tuple[Axes, ...] = ()
    kernels: tuple[Axes, ...] = ()
    deep_supervision: bool = False
    fusion: str = "masked_mean"


@dataclass(frozen=True)
class Footprint:
    """What training takes.

    Attributes:
        parameters: that are trained, the classifier heads' included.
        state: bytes of the weights and of what the optimizer keeps.
        activations: most bytes that a step holds besides: samples, feature maps, gradients.
        operations: multiplications and additions of a step.
    """

    parameters: int
    state: int
    activations: int
    operations: int

    @property
    def memory(self) -> int:
        """Bytes on the device."""
        return self.state + self.activations


@functools.lru_cache(maxsize=256)
def footprint(network: Network, patch_size: Axes, batch_size: int, *, low_precision: bool) -> Footprint:
    """What a training step takes, without taking it.

    A step is that of joint training with a classifier head for each modality. Scratch memory of single operations is
    not counted.

    Args:
        network: what is trained.
        patch_size: voxels along x, y, z.
        batch_size: samples of this process.
        low_precision: whether the network computes in bfloat16.

    Example:
        >>> strides, kernels = ((1, 1, 1), (2, 2, 2)), ((3, 3, 3), (3, 3, 3))
        >>> small = Network(2, 1, True, (4, 8), strides, kernels)
        >>> one, two = (footprint(small, (8, 8, 8), n, low_precision=False) for n in (1, 2))
        >>> one.parameters == two.parameters, one.activations < two.activations
        (True, True)
    """
    number = torch.bfloat16 if low_precision else torch.float32
    with torch.device("meta"):
        names = [f"m{i}" for i in range(network.modalities)]
        model = SegmentationModel(
            names,
            network.regions,
            network.channels,
            network.deep_supervision,
            encoder=functools.partial(UNetEncoder, kernels=network.kernels, strides=network.strides),
            fusion=registry.load(registry.FUSIONS, network.fusion),
            decoder_kernels=network.kernels,
        )
        heads = model.heads or UnimodalHeads({m: VoxelwiseHead(model.channels, network.regions) for m in names})
    parameters = sum(p.numel() for p in {*model.parameters(), *heads.parameters()})
    model, heads = model.to(number), heads.to(number)
    criterion = RegionLoss(exclusive=network.exclusive)

    def step() -> None:
        inputs = {m: torch.empty(batch_size, 1, *patch_size, dtype=number, device="meta") for m in names}
        target = torch.empty(batch_size, network.regions, *patch_size, dtype=torch.uint8, device="meta")
        loss = _loss(model, heads, inputs, lambda logits: criterion(logits, target))
        loss.backward()

    with FlopCounterMode(display=False) as counter:
        activations = peak_bytes(step, gradients=True)
    state = parameters * (_STATE_LOW if low_precision else _STATE)
    return Footprint(parameters, state, activations, counter.get_total_flops())


def _loss(
    model: SegmentationModel, heads: UnimodalHeads, inputs: dict[str, Tensor], criterion: Callable[[Tensor], Tensor]
) -> Tensor:
    """The losses of joint training; features go out of scope here, so that only what autograd keeps is left."""
    features = model.encode(inputs)
    (outputs,) = model.predict([features])
    answers: Sequence[Tensor] = (outputs.logits, *outputs.deep_logits)
    answers = (*answers, *(head.logits for head in heads(features).values()))
    return torch.stack([criterion(logits) for logits in answers]).sum()
