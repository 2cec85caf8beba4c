"""Writing the cases of a segmentation task as an nnU-Net data set."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cggm_med.config import Tree, require
from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.io import open_image, write_volume
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.errors import ConfigError, DataError, OutputError
from cggm_med.files import atomic_folder, write_json
from cggm_med.task.base import Task
from cggm_med.task.segmentation import MANY_CASES

ENDING = ".nii.gz"


def export_dataset(task: Task, raw: Path, number: int, name: str, *, say: Callable[[str], None] = print) -> Path:
    """Write a task's cases in nnU-Net's format, whole or not at all.

    Training and validation cases go to ``imagesTr``, and the division into the two, by patient, to
    ``splits_final.json`` as nnU-Net's fold 0. Test cases go to ``imagesTs``, their labels to ``labelsTs``. Images are
    hard links where the file system allows.

    Args:
        task: not yet prepared.
        raw: nnU-Net's folder of raw data sets.
        number: of the data set, 1 to 999.
        name: of the data set.
        say: told in one line what is being done.

    Returns:
        The new folder.

    Raises:
        ConfigError: if the task does not segment, and for a number or name that nnU-Net does not take.
        OutputError: if there is a data set of this number, or the folder cannot be written.
        DataError: if cases are damaged; names every one.
    """
    volumes = task.volumes()
    if volumes is None:
        raise ConfigError(
            f"task '{task.config.task.name}' does not segment, which is all that nnU-Net does; name another with --task"
        )
    require(1 <= number <= 999, "--id", number, "from 1 to 999")
    require(re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None, "--name", name, "letters, digits, _ and -")
    target = raw / f"Dataset{number:03d}_{name}"
    if taken := sorted(raw.glob(f"Dataset{number:03d}_*")):
        raise OutputError(f"{taken[0]} exists; choose another number with --id, or remove it")
    task.find(say)
    cases = {case.id: case for case in volumes.found.cases}
    splits = task.default_splits()
    used = [id for _, ids in splits.items() for id in ids]
    say(f"{len(used)} cases ({volumes.found.layout}), labels as in {volumes.convention.name}; checking")
    problems = [f"{id}: it has no label of its own, only those of readers" for id in used if cases[id].label is None]
    for done, id in enumerate(used, start=1):
        problems += inspect(cases[id], volumes.convention).problems
        if len(used) >= MANY_CASES and done % (len(used) // 10) == 0:
            say(f"{done} of {len(used)} cases checked")
        lacking = [modality for modality in volumes.modalities if modality not in cases[id].images]
        problems += [f"{id}: no {', '.join(lacking)}, and nnU-Net needs every channel"] if lacking else []
    if problems:
        raise DataError("these cases cannot be exported; fix or leave out:", problems)
    numbers = consecutive_numbers(volumes.convention)
    with atomic_folder(target) as folder:
        for part, ids in (("Tr", (*splits.train, *splits.validation)), ("Ts", splits.test)):
            for id in ids:
                _write_case(cases[id], folder, part, numbers)
        if splits.validation:
            write_json(folder / "splits_final.json", [{"train": list(splits.train), "val": list(splits.validation)}])
        training = len(splits.train) + len(splits.validation)
        write_json(folder / "dataset.json", dataset_json(volumes.modalities, volumes.convention, training))
    return target


def consecutive_numbers(convention: LabelConvention) -> dict[int, int]:
    """A number from 1, without gaps, for each label that belongs to a region; nnU-Net takes no others.

    Example:
        >>> brats = LabelConvention("x", {1: "core", 4: "enhancing"}, {"TC": (1, 4), "ET": (4,)}, {"TC": 1, "ET": 4})
        >>> consecutive_numbers(brats)
        {1: 1, 4: 2}
    """
    used = sorted({label for labels in convention.regions.values() for label in labels})
    return {label: i for i, label in enumerate(used, start=1)}


def dataset_json(modalities: tuple[str, ...], convention: LabelConvention, training: int) -> Tree:
    """What nnU-Net has to know of the data set.

    Overlapping regions become nnU-Net's regions, in the order in which the convention paints them, since nnU-Net paints
    them in the order of ``labels``. Labels that exclude one another stay labels.

    Args:
        modalities: names of the channels.
        convention: of the original labels.
        training: number of training cases.

    Example:
        >>> brats = LabelConvention("x", {1: "core", 4: "enhancing"}, {"ET": (4,), "TC": (1, 4)}, {"TC": 1, "ET": 4})
        >>> made = dataset_json(("flair",), brats, 8)
        >>> made["labels"], made["regions_class_order"]
        ({'background': 0, 'TC': [1, 2], 'ET': [2]}, [1, 2])
    """
    numbers = consecutive_numbers(convention)
    regions = {name: [numbers[label] for label in convention.regions[name]] for name in convention.paint}
    overlap = any(len(labels) > 1 for labels in regions.values())
    labels: Tree = regions if overlap else {name: label for name, (label,) in regions.items()}
    meanings = {str(new): f"{convention.meanings[old]} ({old} in {convention.name})" for old, new in numbers.items()}
    return {
        "channel_names": {str(i): modality for i, modality in enumerate(modalities)},
        "labels": {"background": 0, **labels},
        **({"regions_class_order": [numbers[label] for label in convention.paint.values()]} if overlap else {}),
        "numTraining": training,
        "file_ending": ENDING,
        "label_meanings": meanings,
    }


def renumber(labels: NDArray[np.generic], numbers: dict[int, int]) -> NDArray[np.uint8]:
    """The label map with other numbers; a label without one becomes background."""
    renumbered = np.zeros(labels.shape, np.uint8)
    for old, new in numbers.items():
        renumbered[labels == old] = new
    return renumbered


def _write_case(case: Case, folder: Path, part: str, numbers: dict[int, int]) -> None:
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    for sub in (images, labels):
        sub.mkdir(exist_ok=True)
    for channel, image in enumerate(case.images.values()):
        _write_image(image, images / f"{case.id}_{channel:04d}{ENDING}")
    assert case.label is not None  # noqa: S101 - find_cases was asked for labels
    grid = next(iter(case.images.values())).path
    write_volume(labels / f"{case.id}{ENDING}", renumber(open_image(case.label).voxels(), numbers), grid)


def _write_image(image: ImageFile, target: Path) -> None:
    """One 3-D file for one modality: linked or copied if it is one already."""
    stored = open_image(image.path)
    plain = stored.header is not None and len(stored.header.get_data_shape()) == 3
    if plain and image.channel is None and image.path.name.endswith(ENDING):
        source = os.path.realpath(image.path)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
        return
    volume = stored.voxels(image.channel)
    write_volume(target, volume.astype(np.float32) if volume.dtype == np.float64 else volume, image.path)
