"""The settings of segmentation tasks: of the task, its data and its network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from cggm_med.config import require
from cggm_med.data.checks.finding import require_known
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.volumes.augment import Amount
from cggm_med.data.volumes.raters import Raters
from cggm_med.task.base import TaskConfig


@dataclass(frozen=True)
class SegmentationTaskConfig(TaskConfig):
    """Settings of a segmentation task.

    Attributes:
        labels: name of the convention in which label files are written; default: what the layout of the data implies.
        metrics: registered names of further metrics, from other packages, for the held-out cases.
        batch_dice: whether the Dice loss of a region counts all samples that are computed together as one, rather than
            being averaged over samples; see ``RegionLoss``.
        subset_hd95: whether HD95 is scored as well where subsets of the modalities are, which takes longer.
        component_filter: ``validation``: after training, choose on the validation cases which small components of
            each region are removed from masks, see ``task.component_choice``; ``none``: masks stay as predicted.
    """

    labels: str | None = None
    metrics: tuple[str, ...] = ()
    batch_dice: bool = False
    subset_hd95: bool = False
    component_filter: Literal["none", "validation"] = "none"


@dataclass(frozen=True)
class SegmentationDataConfig:
    """Where the scans are and how they reach the network.

    Attributes:
        path: folder or JSON list; default: the task's embedded data.
        splits: JSON file with case ids for train, validation and test; default: drawn by patient from the seed.
        fold: of the cross-validation that the data declare: its cases are tested; default: the data's other splits.
        validation: share of the patients to choose the best checkpoint by.
        test: share of the patients that are scored at the end.
        raters: whose label maps are learned where several readers drew: the ``consensus`` (the case's own label, else
            the majority), the ``majority``, or the share of them (``soft``).
        spacing: common voxel size in mm along right, anterior, superior; default: the cases' own, which must agree.
        resample_to: modality to whose grid the others are resampled where the grids of a case differ.
        patch_size: voxels along x, y, z.
        foreground: share of patches that are centred on a voxel of a region.
        augmentation: ``none``, ``light`` or ``standard``.
        window_size: voxels along x, y, z of the windows in which a volume is predicted; default: ``patch_size``.
        overlap: share of a window that its neighbour also covers.
        empty_hd95_mm: HD95 of a region or lesion that is missed or falsely predicted, in mm; 374 is the penalty of
            the BraTS challenge.
        surface_tolerance_mm: distance in mm up to which surfaces agree in normalised surface Dice; 1 mm is a voxel of
            the BraTS grid, the finest that an annotation of it can be.
        rescaling: numbers by which a modality is normalised that is not z-scored, see ``Rescaling``; default: from the
            training cases.
        cache: folder for preprocessed cases; default: ``$XDG_CACHE_HOME/cggm-med`` or ``~/.cache/cggm-med``.
        workers: processes that read and augment patches.
        allow_missing: whether a case may lack modalities; it is then used with what it has. Declared data say
            themselves what a case must have.
        required: modalities that every case must have where others may be missing.
        missing: modalities that are taken from training cases for a study, see ``data.imposed.without_imposed``.
        accept: kinds of findings that do not speak against the use of a case, such as ``implausible_size``.
    """

    path: str | None = None
    splits: str | None = None
    fold: str | None = None
    validation: float = 0.15
    test: float = 0.15
    raters: Raters = "consensus"
    spacing: tuple[float, float, float] | None = None
    resample_to: str | None = None
    patch_size: tuple[int, int, int] = (96, 96, 96)
    foreground: float = 0.5
    augmentation: Amount = "standard"
    window_size: tuple[int, int, int] | None = None
    overlap: float = 0.5
    empty_hd95_mm: float = 374.0
    surface_tolerance_mm: float = 1.0
    rescaling: dict[str, dict[str, float]] = field(default_factory=dict)
    cache: str | None = None
    workers: int = 2
    allow_missing: bool = False
    required: tuple[str, ...] = ()
    missing: str | None = None
    accept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("validation", "test", "overlap"):
            require(0 <= getattr(self, name) < 1, f"data.{name}", getattr(self, name), "at least 0, below 1")
        require(0 <= self.foreground <= 1, "data.foreground", self.foreground, "from 0 to 1")
        finite = all(0 < s < math.inf for s in self.spacing or ())
        require(finite, "data.spacing", self.spacing, "more than 0 mm along each axis")
        require(0 <= self.empty_hd95_mm < math.inf, "data.empty_hd95_mm", self.empty_hd95_mm, "at least 0 mm, finite")
        tolerance = self.surface_tolerance_mm
        require(0 <= tolerance < math.inf, "data.surface_tolerance_mm", tolerance, "at least 0 mm, finite")
        for modality, numbers in self.rescaling.items():
            known = {"mean", "deviation"} <= set(numbers) <= {"mean", "deviation", "low", "high"}
            sound = known and numbers["deviation"] > 0 and all(map(math.isfinite, numbers.values()))
            expected = "finite numbers: mean, deviation (more than 0), and perhaps low and high"
            require(sound, f"data.rescaling.{modality}", numbers, expected)
        require(all(n > 0 for n in self.patch_size), "data.patch_size", self.patch_size, "at least 1 voxel per axis")
        require(self.workers >= 0, "data.workers", self.workers, "at least 0")
        require_known(self.accept, KINDS.values())


@dataclass(frozen=True)
class SegmentationModelConfig:
    """The network.

    Attributes:
        channels: feature channels of each scale of every encoder, finest first.
        strides: of each scale relative to the one before, along x, y, z; default: every scale halves the grid.
        kernels: width of the convolutions of each scale along x, y, z; default: 3.
        deep_supervision: also learn from predictions at coarser scales.
        prior_bias: start with last layers that predict each region with its share of the training patches' voxels.
        encoder: registered name of the encoder.
        fusion: registered name of the fusion.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128)
    strides: tuple[tuple[int, int, int], ...] = ()
    kernels: tuple[tuple[int, int, int], ...] = ()
    deep_supervision: bool = False
    prior_bias: bool = False
    encoder: str = "unet"
    fusion: str = "masked_mean"

    def __post_init__(self) -> None:
        channels = list(self.channels)
        require(len(channels) >= 2, "model.channels", channels, "at least 2 scales")
        require(all(c > 0 for c in channels), "model.channels", channels, "at least 1 channel per scale")
        for name in ("strides", "kernels"):
            steps = getattr(self, name)
            whole = all(n >= 1 for step in steps for n in step)
            require(whole and len(steps) in (0, len(channels)), f"model.{name}", steps, "one for each scale, or none")
        odd = all(n % 2 for kernel in self.kernels for n in kernel)
        require(odd, "model.kernels", self.kernels, "odd widths, such as 3, with which a grid keeps its size")
        first = {*self.strides[0]} if self.strides else {1}
        require(first == {1}, "model.strides", self.strides, "1 along each axis at the first scale")
