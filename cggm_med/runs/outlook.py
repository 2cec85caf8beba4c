"""What a segmentation run on some data would train and take, as tables, from the scans' headers alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from cggm_med.data.splits import Splits
from cggm_med.data.volumes.geometry import Geometry, geometries, median_shape, target_spacing
from cggm_med.device import CONTEXT_BYTES, held_bytes, select_device
from cggm_med.errors import ConfigError, DataError, counted
from cggm_med.results.tables import Table
from cggm_med.runs.expected import expected, windows_of
from cggm_med.runs.memory import expected_memory, scales_of
from cggm_med.task.base import Task
from cggm_med.task.segmentation import SegmentationTask
from cggm_med.training.pace import STEPS, measure_pace
from cggm_med.types import Batch


def require_plannable(task: Task) -> SegmentationTask:
    """The task, unless there is nothing to plan.

    Raises:
        ConfigError: if it does not segment.
    """
    if not isinstance(task, SegmentationTask):
        raise ConfigError(
            f"task '{task.config.task.name}' does not segment scans, and only those are planned for; train without"
        )
    return task


def outlook(task: SegmentationTask, *, at_hand: bool) -> list[Table]:
    """The cases, the scales of the network, and what training takes.

    Args:
        task: whose cases are found; their images are not read.
        at_hand: whether the device of the run is here, so that steps can be timed on it; else a GPU elsewhere.

    Raises:
        DataError: if no header can be read.
    """
    scans = geometries(task.found.cases, task.reference)
    if not scans:
        raise DataError(f"no header of {counted(len(task.found.cases), 'case')} can be read; 'cggm-med check' says why")
    spacing = task.spacing or target_spacing(scans)
    device = select_device(task.config.train.device) if at_hand else torch.device("cuda")
    return [_cases(scans), _network(task), _training(task, scans, spacing, device, at_hand=at_hand)]


def _cases(scans: Sequence[Geometry]) -> Table:
    def row(name: str, values: Sequence[Sequence[float]]) -> tuple[str, ...]:
        return (name, *(_by(np.percentile(values, share, axis=0)) for share in (5, 50, 95)))

    rows = (row("voxels", [s.shape for s in scans]), row("voxel size in mm", [s.spacing for s in scans]))
    return Table(f"{len(scans)} cases along right, anterior, superior", ("", "5 %", "median", "95 %"), rows)


def _network(task: SegmentationTask) -> Table:
    rows, grid = [], np.array(task.patch_size)
    scales = zip(*scales_of(task), task.channels, strict=True)
    for number, (stride, kernel, channels) in enumerate(scales, start=1):
        grid = grid // stride
        rows.append((str(number), _by(grid), _by(stride), _by(kernel), str(channels)))
    title = f"Every encoder, one for each of {', '.join(task.modalities)}"
    return Table(title, ("scale", "grid", "stride", "kernel", "channels"), tuple(rows))


def _training(
    task: SegmentationTask,
    scans: Sequence[Geometry],
    spacing: tuple[float, float, float],
    device: torch.device,
    *,
    at_hand: bool,
) -> Table:
    config = task.config
    train = config.train
    memory = expected_memory(task, device, held_bytes(device) if at_hand else CONTEXT_BYTES)
    rows = [
        ("voxel size in mm", _by(spacing)),
        ("patch in voxels", _by(task.patch_size)),
        ("batch", str(train.batch_size)),
        ("deep supervision", "yes" if config.model.deep_supervision else "no"),
        ("steps", f"{train.steps:,}" if train.steps else f"{train.epochs} epochs of all cases"),
    ]
    if memory is not None:
        rows += [
            ("parameters in M, with heads", f"{memory.footprint.parameters / 1e6:.2f}"),
            ("memory of the process", str(memory)),
        ]
    if train.hours is not None:
        rows.append(("ends at the latest", f"after {train.hours:g} hours of training (train.hours)"))
    rows.append(("expected time", _time(task, scans, spacing, device) if at_hand else "said by 'train' on that GPU"))
    return Table("Training" + (f" on {device}" if at_hand else " on a GPU"), ("", ""), tuple(rows))


def _time(
    task: SegmentationTask, scans: Sequence[Geometry], spacing: tuple[float, float, float], device: torch.device
) -> str:
    """By steps on numbers that mean nothing."""
    train = task.config.train
    splits = Splits(tuple(case.id for case in task.found.cases), (), ())
    with contextlib.suppress(DataError):  # too few cases to hold any out, which 'train' refuses
        splits = task.default_splits()
    settled = replace(train, steps_per_epoch=train.steps_in_epoch(len(splits.train)))
    config = replace(task.config, train=settled)
    random = torch.Generator().manual_seed(0)
    shape = (train.batch_size, 1, *task.patch_size)
    inputs = {m: torch.randn(shape, generator=random) for m in task.modalities}
    target = torch.zeros(train.batch_size, len(task.targets), *task.patch_size, dtype=torch.uint8)
    target[..., ::2] = 1
    batch = Batch(inputs, target, ("",) * train.batch_size)
    pace = measure_pace(task, config, device, [batch] * STEPS)
    windows = windows_of(task, [median_shape(scans, spacing)] * len(splits.validation))
    return f"{expected(settled, pace, device, windows=windows, workers=0)}, reading of the data not counted"


def _by(numbers: Iterable[float]) -> str:
    """Numbers along the axes, such as ``128 x 128 x 20``."""
    return " x ".join(f"{number:.4g}" if number < 1e4 else f"{number:.0f}" for number in numbers)
