"""Writing the cases of a segmentation task as an nnU-Net data set."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cggm_med.config import Tree, require
from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.checks.finding import Finding, decide, objections
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.io import open_image, write_volume
from cggm_med.data.volumes.label_files import open_label
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.preprocess import ACCEPT, CONVERTED
from cggm_med.data.volumes.stored_image import StoredImage
from cggm_med.errors import ConfigError, DataError, OutputError
from cggm_med.files import atomic_folder, require_writable, write_json
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
    require_writable([target / "dataset.json"])
    task.find(say)
    cases = {case.id: case for case in volumes.found.cases}
    splits = task.default_splits()
    used = [id for _, ids in splits.items() for id in ids]
    named = volumes.labels_in_words(cases[id] for id in used)
    say(f"{len(used)} cases ({volumes.found.layout}), labels numbered as in {named}; checking")
    problems: list[str] = []
    findings: list[Finding] = []
    for done, id in enumerate(used, start=1):
        found = inspect(cases[id], volumes.convention_of(cases[id]))
        problems += found.problems
        findings += found.findings
        problems += _not_for_nnunet(cases[id], volumes.modalities)
        if len(used) >= MANY_CASES and done % (len(used) // 10) == 0:
            say(f"{done} of {len(used)} cases checked")
    accepted = getattr(task.config.data, "accept", ())
    problems += objections(findings, accepted, accept=ACCEPT)
    if problems:
        raise DataError("these cases cannot be exported; fix or leave out:", problems)
    decide(findings, accepted, say, accept=ACCEPT)
    conventions = {volumes.convention_of(cases[id]).name: volumes.convention_of(cases[id]) for id in used}
    numbers = numbers_of_regions([*conventions.values()])
    with atomic_folder(target) as folder:
        for part, ids in (("Tr", (*splits.train, *splits.validation)), ("Ts", splits.test)):
            for id in ids:
                convention = volumes.convention_of(cases[id])
                new = consecutive_numbers(convention, numbers)
                _write_case(cases[id], volumes.modalities, folder, part, convention, new)
        if splits.validation:
            write_json(folder / "splits_final.json", [{"train": list(splits.train), "val": list(splits.validation)}])
        training = len(splits.train) + len(splits.validation)
        write_json(folder / "dataset.json", dataset_json(volumes.modalities, [*conventions.values()], training))
    return target


def numbers_of_regions(conventions: Sequence[LabelConvention]) -> dict[frozenset[str], int]:
    """A number from 1, without gaps, for each set of regions that a label belongs to; nnU-Net takes no others.

    So labels of several conventions that mean the same to the task get one number.

    Example:
        >>> brats = LabelConvention("x", {1: "core", 4: "enhancing"}, {"TC": (1, 4), "ET": (4,)}, {"TC": 1, "ET": 4})
        >>> [(sorted(regions), number) for regions, number in numbers_of_regions([brats]).items()]
        [(['TC'], 1), (['ET', 'TC'], 2)]
    """
    sets = [_regions_of(label, each) for each in conventions for label in sorted(each.meanings)]
    return {regions: i for i, regions in enumerate(dict.fromkeys(filter(None, sets)), start=1)}


def consecutive_numbers(convention: LabelConvention, numbers: Mapping[frozenset[str], int]) -> dict[int, int]:
    """The number of each label that belongs to a region, and after them that of voxels to ignore.

    Args:
        convention: of the labels.
        numbers: see ``numbers_of_regions``.
    """
    new = {label: numbers.get(_regions_of(label, convention)) for label in convention.meanings}
    ignored = {} if convention.ignore is None else {convention.ignore: len(numbers) + 1}
    return {label: number for label, number in sorted(new.items()) if number is not None} | ignored


def _regions_of(label: int, convention: LabelConvention) -> frozenset[str]:
    return frozenset(region for region, labels in convention.regions.items() if label in labels)


def dataset_json(modalities: tuple[str, ...], conventions: Sequence[LabelConvention], training: int) -> Tree:
    """What nnU-Net has to know of the data set.

    Overlapping regions become nnU-Net's regions, in the order in which the convention paints them, since nnU-Net paints
    them in the order of ``labels``. Regions that exclude one another become labels.

    Args:
        modalities: names of the channels.
        conventions: of the original labels, all with the same regions.
        training: number of training cases.

    Raises:
        ConfigError: for a region with a name that nnU-Net gives another meaning.

    Example:
        >>> brats = LabelConvention("x", {1: "core", 4: "enhancing"}, {"ET": (4,), "TC": (1, 4)}, {"TC": 1, "ET": 4})
        >>> made = dataset_json(("flair",), [brats], 8)
        >>> made["labels"], made["regions_class_order"]
        ({'background': 0, 'TC': [1, 2], 'ET': [2]}, [1, 2])
    """
    first, numbers = conventions[0], numbers_of_regions(conventions)
    if taken := {"background", "ignore"} & set(first.regions):
        raise ConfigError(f"region {min(taken)} has a meaning of its own in nnU-Net; give it another name")
    regions = {name: [number for held, number in numbers.items() if name in held] for name in first.paint}
    overlap = any(len(of) > 1 for of in regions.values())
    labels: Tree = regions if overlap else {name: number for name, (number,) in regions.items()}
    ignored = any(each.ignore is not None for each in conventions)
    meanings: dict[str, list[str]] = {}
    for each in conventions:
        for old, new in consecutive_numbers(each, numbers).items():
            meanings.setdefault(str(new), []).append(f"{each.meanings.get(old, 'ignored')} ({old} in {each.name})")
    painted = [numbers[_regions_of(label, first)] for label in first.paint.values()]
    return {
        "channel_names": {str(i): modality for i, modality in enumerate(modalities)},
        "labels": {"background": 0, **labels, **({"ignore": len(numbers) + 1} if ignored else {})},
        **({"regions_class_order": painted} if overlap else {}),
        "numTraining": training,
        "file_ending": ENDING,
        "label_meanings": {number: ", ".join(of) for number, of in sorted(meanings.items())},
    }


def renumber(labels: NDArray[np.generic], numbers: dict[int, int]) -> NDArray[np.uint8]:
    """The label map with other numbers; a label without one becomes background."""
    renumbered = np.zeros(labels.shape, np.uint8)
    for old, new in numbers.items():
        renumbered[labels == old] = new
    return renumbered


def _not_for_nnunet(case: Case, modalities: Sequence[str]) -> list[str]:
    """What nnU-Net has no way to say of a case."""
    lacks = [modality for modality in modalities if modality not in case.images]
    problems = [f"{case.id}: no {', '.join(lacks)}; nnU-Net needs every modality of every case"] if lacks else []
    if case.not_drawn:
        problems.append(f"{case.id}: {', '.join(case.not_drawn)} not drawn; nnU-Net needs every region of every case")
    if case.label is None:
        problems.append(f"{case.id}: no label of its own, only those of readers; nnU-Net knows one")
    return problems


def _write_case(
    case: Case,
    modalities: Sequence[str],
    folder: Path,
    part: str,
    convention: LabelConvention,
    numbers: dict[int, int],
) -> None:
    images, labels = folder / f"images{part}", folder / f"labels{part}"
    for sub in (images, labels):
        sub.mkdir(exist_ok=True)
    for channel, modality in enumerate(modalities):
        _write_image(case.images[modality], images / f"{case.id}_{channel:04d}{ENDING}")
    assert case.label is not None  # noqa: S101 - checked above
    grid = _grid_of(open_image(case.images[modalities[0]].path))
    drawn = open_label(case.label, convention).voxels()
    write_volume(labels / f"{case.id}{ENDING}", renumber(drawn, numbers), grid)


def _write_image(image: ImageFile, target: Path) -> None:
    """One 3-D file for one modality: linked or copied if it is one already."""
    stored = open_image(image.path)
    grid = _grid_of(stored)
    plain = stored.header is not None and len(stored.header.get_data_shape()) == 3 and isinstance(grid, Path)
    if plain and image.channel is None and image.path.name.endswith(ENDING):
        source = os.path.realpath(image.path)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
        return
    volume = stored.voxels(image.channel)
    write_volume(target, volume.astype(np.float32) if volume.dtype == np.float64 else volume, grid)


def _grid_of(stored: StoredImage) -> Path | NDArray[np.float64]:
    """The file on whose grid to write; where its header was converted, which nnU-Net would not do, the grid alone."""
    converted = any(finding.kind.name in CONVERTED for finding in stored.findings)
    return stored.affine if converted else stored.path
