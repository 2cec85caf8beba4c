"""nnU-Net's raw data sets: of version 2, with what ``cggm-med nnunet export`` writes, and tasks of version 1.

Formats: https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md, region_based_training.md, ignore_label.md
and manual_data_splits.md; version 1 as its ``convert_raw_dataset_from_old_nnunet_format`` reads it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cggm_med.data.cases import Case, ImageFile, natural_key
from cggm_med.data.folders.channels import channels_of
from cggm_med.data.folders.decathlon import channel_names
from cggm_med.data.folders.label_lists import labels_of
from cggm_med.data.folders.listed import Listed, ListedFiles, base_name, entries_of, proposal_of_list
from cggm_med.data.folders.proposal import Proposal
from cggm_med.data.folders.scans import PICTURES
from cggm_med.data.layouts import read_json
from cggm_med.errors import DataError

_PARTS = (("Tr", "training"), ("Ts", "test"))
_IMAGES = tuple(f"images{part}" for part, _ in _PARTS)
_SPLITS = "splits_final.json"


def is_version_2(content: Mapping[str, Any]) -> bool:
    """Whether a ``dataset.json`` is one of nnU-Net v2."""
    return "channel_names" in content or ("file_ending" in content and "labels" in content)


def is_version_1(file: Path, content: Mapping[str, Any]) -> bool:
    """Whether a ``dataset.json`` is one of nnU-Net v1: it lists images without the number that their files end with."""
    if "modality" not in content:
        return False
    images = [next(iter(entry.images.values())) for entry in entries_of(content) if not isinstance(entry, str)]
    return bool(images) and not (file.parent / images[0]).is_file() and bool(_numbered(file.parent / images[0]))


def read_version_2(file: Path, content: Mapping[str, Any]) -> Proposal:
    """What a raw data set of nnU-Net v2 declares and holds.

    Args:
        file: its ``dataset.json``.
        content: of that file.

    Raises:
        DataError: if it contradicts itself or holds no case.
    """
    folder = file.parent
    channels = channels_of(channel_names(content.get("channel_names", content.get("modality")), file), file.name)
    labels = labels_of(
        content.get("labels"),
        file.name,
        order=content.get("regions_class_order"),
        meanings=content.get("label_meanings"),
    )
    listed = content.get("dataset")
    files = ListedFiles(file, [folder])
    names = tuple(channels.modalities)
    refusals: tuple[str, ...] = ()
    if isinstance(listed, dict):
        found = _listed(listed, names, files)
    else:
        ending = str(content.get("file_ending", ".nii.gz"))
        if ending.lower() in PICTURES:
            refusals = (f"its files are pictures ({ending}); stack the slices of each case into one volume first",)
        found = _found(folder, names, ending, file, files)
    cases, sections, notes = _with_splits(folder, *found)
    return proposal_of_list(
        "nnunet_v2", file, content.get("name"), channels, labels, cases, sections, files, refusals=refusals, notes=notes
    )


def read_images_of_version_2(folder: Path) -> Proposal | None:
    """The cases of one folder of images, such as ``imagesTs``, of a raw data set that lies around it.

    Args:
        folder: of the images.

    Raises:
        DataError: if the ``dataset.json`` of that data set contradicts itself.

    Returns:
        None if no data set of nnU-Net v2 has this folder.
    """
    folder = folder.absolute()
    file = folder.parent / "dataset.json"
    content = read_json(file) if folder.name in _IMAGES and file.is_file() else None
    if not (isinstance(content, dict) and is_version_2(content)):
        return None
    whole = read_version_2(file, content)
    cases = tuple(case for case in whole.cases if {folder} == {image.path.parent for image in case.images.values()})
    return replace(whole, cases=cases, sections=None, left_out={}) if cases else None


def read_version_1(file: Path, content: Mapping[str, Any]) -> Proposal:
    """What a task of nnU-Net v1 declares and holds.

    Args:
        file: its ``dataset.json``.
        content: of that file.

    Raises:
        DataError: if it contradicts itself or holds no case.
    """
    channels = channels_of(channel_names(content["modality"], file), file.name)
    listed = Listed(file, content, [file.parent])
    files = listed.files
    cases: list[Case] = []
    sections: dict[str, list[str]] = {}
    for entry in listed.entries:
        given = next(iter(entry.images.values()))
        id = base_name(given)
        images = {}
        for name, path in zip(channels.modalities, _channel_names(given, len(channels.modalities)), strict=True):
            if image := files.look(path):
                images[name] = ImageFile(image)
        if not images:
            files.missing.append(f"{entry.where}: {given}")
        label = None if entry.label is None else files.find(entry.label, entry.where)
        cases.append(Case(id, "", images, label))
        sections.setdefault(entry.section, []).append(id)
    _refuse_twice(file, cases)
    divided, ordered, notes = _with_splits(file.parent, cases, sections)
    labels = labels_of(content.get("labels"), file.name)
    return proposal_of_list(
        "nnunet_v1", file, content.get("name"), channels, labels, divided, ordered, files,
        refusals=listed.problems, notes=notes,
    )  # fmt: skip


def _found(
    folder: Path, names: Sequence[str], ending: str, file: Path, files: ListedFiles
) -> tuple[list[Case], dict[str, list[str]]]:
    """Cases of the folders imagesTr and imagesTs."""
    cases: list[Case] = []
    sections: dict[str, list[str]] = {}
    other: Counter[str] = Counter()
    for part, section in _PARTS:
        images: dict[str, dict[str, ImageFile]] = {}
        for path in _files(folder / f"images{part}"):
            matched = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name)
            if matched is None:
                other[path.name.partition(".")[2]] += 1
            elif int(matched[2]) < len(names):
                images.setdefault(matched[1], {})[names[int(matched[2])]] = ImageFile(path)
                files.found.add(path)
        for id, of in sorted(images.items(), key=lambda item: natural_key(item[0])):
            label = folder / f"labels{part}" / (id + ending)
            ordered = {name: of[name] for name in names if name in of}
            cases.append(Case(id, "", ordered, label if label.is_file() else None))
            files.found.add(label)
            sections.setdefault(section, []).append(id)
    if not cases:
        held = ", ".join(f".{kind}" for kind, _ in other.most_common(3))
        raise DataError(
            f"{file}: no image CASE_0000{ending} in {folder / 'imagesTr'}"
            + (f"; the files there end with {held}: correct file_ending or the names" if held else "")
        )
    _refuse_twice(file, cases)
    return cases, sections


def _listed(
    listed: Mapping[str, Any], names: Sequence[str], files: ListedFiles
) -> tuple[list[Case], dict[str, list[str]]]:
    """Cases of the dictionary ``dataset``, whose paths may lead anywhere."""
    cases = []
    for id, entry in sorted(listed.items(), key=lambda item: natural_key(item[0])):
        given = entry.get("images") if isinstance(entry, dict) else None
        if not (isinstance(given, list) and len(given) == len(names) and all(isinstance(p, str) for p in given)):
            files.missing.append(f"{id}: a list of {len(names)} images")
            continue
        found = {name: files.find(path, id) for name, path in zip(names, given, strict=True)}
        images = {name: ImageFile(path) for name, path in found.items() if path is not None}
        label = files.find(entry["label"], id) if isinstance(entry.get("label"), str) else None
        cases.append(Case(id, "", images, label))
    return cases, {"training": [case.id for case in cases]}


def _numbered(image: Path) -> bool:
    return any((image.parent / name).is_file() for name in _channel_names(image.name, 1))


def _channel_names(given: str, count: int) -> list[str]:
    """The files of a listed image: its name with the number of each channel."""
    folder, _, name = given.rpartition("/")
    base = base_name(name)
    named = (f"{base}_{channel:04d}{name[len(base) :]}" for channel in range(count))
    return [f"{folder}/{file}" if folder else file for file in named]


def _files(folder: Path) -> list[Path]:
    """Files of a folder that are not hidden; none if there is no such folder."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    return [Path(entry.path) for entry in entries if entry.is_file() and not entry.name.startswith(".")]


def _refuse_twice(file: Path, cases: Iterable[Case]) -> None:
    twice = [id for id, count in Counter(case.id for case in cases).items() if count > 1]
    if twice:
        raise DataError(f"{file}: the same case twice, among training or test cases: {', '.join(twice)}; rename one")


def _with_splits(
    folder: Path, cases: Sequence[Case], sections: Mapping[str, Sequence[str]]
) -> tuple[Sequence[Case], Mapping[str, Sequence[str]], list[str]]:
    """Cases with the fold in which each is validated, sections, and what was made of the manual splits.

    They stand beside ``dataset.json`` or in the folder of the same name in the tree of preprocessed data sets. One
    division alone is no cross-validation but a section of its own.
    """
    places = [folder / _SPLITS, *sorted(folder.absolute().parent.parent.glob(f"*/{folder.absolute().name}/{_SPLITS}"))]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return cases, sections, []
    folds = read_json(file)
    known = isinstance(folds, list) and all(isinstance(f, dict) and isinstance(f.get("val"), list) for f in folds)
    if not (known and folds):
        return cases, sections, [f"{file} is not read: expected a list of folds with train and val"]
    of: dict[str, list[int]] = {}
    for number, fold in enumerate(folds):
        for id in fold["val"]:
            of.setdefault(str(id), []).append(number)
    training = sections.get("training", ())
    if strange := sorted(set(of) - set(training)):
        return cases, sections, [f"{file} is not read: it names cases that are not here, such as {strange[0]}"]
    if any(len(numbers) > 1 for numbers in of.values()):
        return cases, sections, [f"{file} is not read: it validates cases in several folds"]
    if len(folds) == 1:
        kept = {"validation": [id for id in training if id in of], "training": [id for id in training if id not in of]}
        return cases, {**sections, **kept}, [f"validation cases as in {file}"]
    numbered = [replace(case, fold=str(of[case.id][0])) if case.id in of else case for case in cases]
    return numbered, sections, [f"folds as in {file}"]
