"""Plan a segmentation run from the sizes of its scans and the memory at hand: voxel size, patch, network, batch.

It stands beside the segmentation task because it needs the scans' headers from ``data`` below and the footprint of the
network that this task builds, and because ``Task.settings_of_data`` is what asks for it (ADR 0035).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cggm_med.config import Tree
from cggm_med.data.volumes.geometry import Geometry, Shape, median_shape, target_spacing
from cggm_med.data.volumes.spacing import Spacing
from cggm_med.device import CONTEXT_BYTES, free_bytes, select_device
from cggm_med.errors import ConfigError
from cggm_med.task.footprint import Axes, Footprint, Network, footprint

MIN_EDGE = 4  # voxels of the coarsest map along an axis that is pooled, as in nnU-Net
LARGEST_PATCH = 256**3  # voxels to begin with, as in nnU-Net
MIN_BATCH = 2
MAX_BATCH = 512  # of a header that states voxels of a kilometre, batches would be tried without end
BATCH_SHARE = 0.05  # most of the data set that one batch may show, as in nnU-Net


@dataclass(frozen=True)
class Budget:
    """What a training step may take on a device, and how long to train there.

    Attributes:
        memory: bytes for weights, optimizer and activations.
        operations: multiplications and additions of a step.
        widths: channels of the finest scale, the preferred number first.
        max_channels: of any scale.
        min_patch: voxels below which a narrower network is preferred to a smaller patch.
        low_precision: whether the network computes in bfloat16.
        deep_supervision: whether the network also learns from coarser scales.
        train: how long to train.
        workers: processes that read and augment.
    """

    memory: float
    operations: float
    widths: tuple[int, ...]
    max_channels: int
    min_patch: int
    low_precision: bool
    deep_supervision: bool
    train: Tree
    workers: int


def gpu_budget(memory: float, *, cores: int, low_precision: bool = True) -> Budget:
    """The budget of a GPU: the width of nnU-Net, as large a patch as fits.

    Args:
        memory: free bytes. A fifth is left to the scratch memory of convolutions and to fragmentation.
        cores: of the CPU, which prepares the patches.
        low_precision: whether the network computes in bfloat16.
    """
    train = {"epochs": 100, "steps_per_epoch": 250, "checkpoint_every": 250, "log_every": 25}
    workers = min(8, max(1, cores - 1))
    return Budget(0.8 * memory, math.inf, (32, 16, 8), 320, 64**3, low_precision, True, train, workers)


def cpu_budget(*, cores: int) -> Budget:
    """The budget of a CPU: a narrow network and a step of a few seconds, whatever the memory, so that a run ends.

    Args:
        cores: of the CPU.
    """
    train = {"epochs": 20, "steps_per_epoch": 50, "checkpoint_every": 50, "log_every": 10}
    return Budget(2e9, 100e9, (8, 4), 128, 32**3, False, False, train, workers=min(2, max(1, cores - 1)))


def budget_of(device: str, precision: str, memory_gb: float | None) -> Budget:
    """The budget of the device at hand, or of a GPU that is not.

    Args:
        device: setting ``train.device``.
        precision: setting ``train.precision``.
        memory_gb: of a GPU; None: free memory of the device, or of a CPU.
    """
    cores, low = os.cpu_count() or 1, precision != "float32"
    if memory_gb is not None:
        return gpu_budget(max(0, memory_gb * 1e9 - CONTEXT_BYTES), cores=cores, low_precision=low)
    at_hand = select_device(device)
    if at_hand.type == "cuda":
        return gpu_budget(free_bytes(at_hand), cores=cores, low_precision=low)
    return cpu_budget(cores=cores)


@dataclass(frozen=True)
class Given:
    """Settings that somebody chose, around which the rest is planned; None or empty: not chosen.

    Attributes:
        spacing: voxel size in mm.
        patch_size: voxels along x, y, z.
        channels: of each scale.
        batch_size: samples of one process.
    """

    spacing: Spacing | None = None
    patch_size: Axes | None = None
    channels: tuple[int, ...] = ()
    batch_size: int | None = None


@dataclass(frozen=True)
class Plan:
    """What to train.

    Attributes:
        spacing: voxel size in mm along right, anterior, superior.
        median: voxels of the median scan at that size.
        patch_size: voxels along x, y, z.
        network: the network.
        batch_size: samples of one process.
        footprint: what a training step takes.
    """

    spacing: Spacing
    median: Shape
    patch_size: Axes
    network: Network
    batch_size: int
    footprint: Footprint

    def settings(self, budget: Budget, processes: int) -> Tree:
        """The plan as settings of a run.

        Args:
            budget: that it was made for.
            processes: that share a batch.
        """
        network = self.network
        return {
            "data": {
                "spacing": list(self.spacing),
                "patch_size": list(self.patch_size),
                "workers": budget.workers,
            },
            "model": {
                "channels": list(network.channels),
                "strides": [list(stride) for stride in network.strides],
                "kernels": [list(kernel) for kernel in network.kernels],
                "deep_supervision": network.deep_supervision,
            },
            "train": {"batch_size": self.batch_size * processes, **budget.train},
        }


@dataclass(frozen=True)
class _Candidate:
    """A patch, a batch and a width, of which the first that fits becomes the plan."""

    patch_size: Axes
    batch_size: int
    width: int


def make_plan(scans: Sequence[Geometry], network: Network, budget: Budget, given: Given = Given()) -> Plan:
    """The largest network, patch and batch that fit, as nnU-Net chooses them but by the footprint of this network.

    The patch begins as the whole median scan, or 256^3 voxels in its proportions in mm; until it fits, the axis that
    covers most of the scan is shortened. Candidates are ordered, and never larger than the one before, so that more
    memory never gives less.

    Args:
        scans: the grids of the cases, at least one.
        network: modalities, regions and fusion; channels, strides and kernels are planned.
        budget: of the device.
        given: what is not to be planned.

    Raises:
        ConfigError: if nothing fits and nothing was given that could be the reason.
    """
    spacing = given.spacing or target_spacing(scans)
    median = median_shape(scans, spacing)
    voxels = sum(math.prod(scan.resampled(spacing)) for scan in scans)
    patches = [given.patch_size] if given.patch_size else list(patches_of(spacing, median))
    candidates = list(_candidates(patches, voxels, budget, given))

    def plan(candidate: _Candidate) -> Plan:
        strides, kernels, _ = topology(spacing, candidate.patch_size)
        channels = given.channels or _channels(candidate.width, len(strides), budget.max_channels)
        strides, kernels = _of_depth(len(channels), strides, kernels)
        planned = replace(network, channels=channels, strides=strides, kernels=kernels)
        taken = footprint(planned, candidate.patch_size, candidate.batch_size, low_precision=budget.low_precision)
        return Plan(spacing, median, candidate.patch_size, planned, candidate.batch_size, taken)

    # The first that fits, by bisection: they only become smaller.
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        if _fits(plan(candidates[middle]), budget):
            high = middle
        else:
            low = middle + 1
    chosen = plan(candidates[low])
    free = not (given.patch_size or given.channels or given.batch_size)
    if free and not _fits(chosen, budget):
        needed, patch = chosen.footprint.memory, " x ".join(map(str, chosen.patch_size))
        raise ConfigError(
            f"even patches of {patch} voxels need {needed / 1e9:.2f} GB to train {network.modalities} encoders, and "
            f"{budget.memory / 1e9:.2f} GB are free; free memory of the device, or train with --set train.device=cpu"
        )
    return chosen


def topology(spacing: Spacing, patch_size: Sequence[int]) -> tuple[tuple[Axes, ...], tuple[Axes, ...], Axes]:
    """Strides and kernels of each scale for a patch, and the patch padded to a multiple of the strides' products.

    By nnU-Net's own function: an axis is halved while it has 8 voxels or more, beginning with the axes of the smallest
    voxels; kernels are 1 along an axis whose voxels are still twice as large as the smallest. There are at least two
    scales, the second of which may keep the grid.

    Example:
        >>> strides, kernels, padded = topology((0.5, 0.5, 5.0), (64, 64, 5))
        >>> strides, padded
        (((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1), (2, 2, 1)), (64, 64, 5))
        >>> kernels[:2]
        ((3, 3, 1), (3, 3, 1))
    """
    # Only here: nothing else of nnU-Net is loaded with it, and the package never needs it to be imported.
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    _, strides, kernels, padded, _ = get_pool_and_conv_props(spacing, tuple(patch_size), MIN_EDGE, 999999)
    x, y, z = map(int, padded)
    strides, kernels = ([tuple(int(n) for n in step) for step in steps] for steps in (strides, kernels))
    if len(strides) == 1:
        strides, kernels = [*strides, (1, 1, 1)], [*kernels, (3, 3, 3)]
    return tuple(strides), tuple(kernels), (x, y, z)


def patches_of(spacing: Spacing, median: Shape) -> Iterator[Axes]:
    """Patches for a median scan, the largest first, each with fewer voxels than the one before.

    Args:
        spacing: voxel size in mm.
        median: voxels of the median scan.

    Example:
        >>> [patch for patch in patches_of((1.0, 1.0, 1.0), (16, 16, 5))][:3]
        [(16, 16, 5), (16, 14, 5), (14, 14, 5)]
    """
    density = 1 / np.array(spacing)
    cube = density * (LARGEST_PATCH / density.prod()) ** (1 / 3)
    # A scan of one slice is padded to two: normalisation needs more than one voxel.
    *_, patch = topology(spacing, [max(2, min(round(n), m)) for n, m in zip(cube, median, strict=True)])
    yield patch
    while (smaller := _shortened(spacing, patch, median)) is not None:
        patch = smaller
        yield patch


def _shortened(spacing: Spacing, patch: Axes, median: Shape) -> Axes | None:
    """The next smaller patch; None if no axis can be shortened."""
    # What cannot be pooled is thin already.
    long = [axis for axis in range(3) if patch[axis] >= 2 * MIN_EDGE]
    axes = sorted(long, key=lambda axis: (patch[axis] / median[axis], patch[axis], axis), reverse=True)
    for axis in axes:
        # Another length may be pooled another number of times, so one voxel less may pad to a smaller patch or not.
        for length in range(patch[axis] - 1, MIN_EDGE - 1, -1):
            *_, smaller = topology(spacing, [length if i == axis else n for i, n in enumerate(patch)])
            if math.prod(smaller) < math.prod(patch):
                return smaller
    return None


def _candidates(patches: Sequence[Axes], voxels: int, budget: Budget, given: Given) -> Iterator[_Candidate]:
    """What to try, in order: fewer samples of the largest patch, smaller patches, narrower networks, single samples."""
    widths = (0,) if given.channels else budget.widths
    if given.batch_size:
        batches = [given.batch_size]
    else:
        most = min(max(MIN_BATCH, round(BATCH_SHARE * voxels / math.prod(patches[0]))), MAX_BATCH)
        batches = list(range(most, MIN_BATCH - 1, -1))
    yield from (_Candidate(patches[0], batch, widths[0]) for batch in batches)
    smallest = 0
    for number, width in enumerate(widths):
        last = number + 1 == len(widths)
        enough = [i for i, patch in enumerate(patches) if last or math.prod(patch) >= budget.min_patch]
        for i in [i for i in enough if i >= smallest] or [smallest]:
            yield _Candidate(patches[i], batches[-1], width)
            smallest = i
    if not given.batch_size:
        yield _Candidate(patches[-1], 1, widths[-1])


def _fits(plan: Plan, budget: Budget) -> bool:
    return plan.footprint.memory <= budget.memory and plan.footprint.operations <= budget.operations


def _channels(width: int, scales: int, most: int) -> tuple[int, ...]:
    """Channels that double with each scale up to a limit.

    Example:
        >>> _channels(32, 6, 320)
        (32, 64, 128, 256, 320, 320)
    """
    return tuple(min(width * 2**i, most) for i in range(scales))


def _of_depth(
    scales: int, strides: tuple[Axes, ...], kernels: tuple[Axes, ...]
) -> tuple[tuple[Axes, ...], tuple[Axes, ...]]:
    """The finest scales; further ones keep the grid."""
    more = max(0, scales - len(strides))
    return (*strides, *[(1, 1, 1)] * more)[:scales], (*kernels, *[(3, 3, 3)] * more)[:scales]
