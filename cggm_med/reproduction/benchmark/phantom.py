"""Generated cases that carry the names of a benchmark's, to see its whole path without its data."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from cggm_med import registry
from cggm_med.data.cases import LABEL
from cggm_med.data.volumes.io import write_volume
from cggm_med.data.volumes.phantom.cases import write_phantom
from cggm_med.reproduction.benchmark.catalogue import Benchmark
from cggm_med.task.segmentation import SegmentationTask

TASK = "brats2021"
PHANTOM_CONVENTION = "brats2021"
SHAPE, SPACING_MM = (48, 48, 32), 5.0


def write_named_phantom(folder: Path, benchmark: Benchmark, names: Sequence[str]) -> None:
    """Write a generated case for each name, its files and label numbers as in the benchmark's data.

    Args:
        folder: receives one folder for each case; cases that are there already stay as they are.
        benchmark: whose layout the files have.
        names: of the cases.
    """
    task: type[SegmentationTask] = registry.load(registry.TASKS, TASK)
    layout = next(layout for layout in task.layouts if layout.name == benchmark.layout)
    painted, meant = (task.conventions[of or ""].paint for of in (PHANTOM_CONVENTION, layout.label_convention))
    numbers = np.arange(max(painted.values()) + 1, dtype=np.uint8)
    for region, number in painted.items():
        numbers[number] = meant[region]
    with tempfile.TemporaryDirectory() as temporary:
        write_phantom(Path(temporary), cases=len(names), seed=0, shape=SHAPE, spacing_mm=SPACING_MM)
        for made, name in zip(sorted(Path(temporary).iterdir()), names, strict=True):
            for role, end in {**layout.suffixes, LABEL: layout.label_suffix}.items():
                target = folder / name / f"{name}{end}.nii.gz"
                if target.exists():
                    continue
                file = nib.load(made / f"{made.name}_{'seg' if role == LABEL else role}.nii.gz")
                voxels = np.asanyarray(file.dataobj)
                write_volume(target, numbers[voxels] if role == LABEL else voxels, file.affine, units=("mm", "sec"))
