"""A label map in the entry of a declared list: a path, or an object that names the file of each region."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cggm_med.data.cases import LabelFile, RegionFile, RegionFiles
from cggm_med.data.volumes.labels import LabelConvention

_KEYS = {"file", "channel", "value"}


def label_of(folder: Path, given: Any, convention: LabelConvention, not_drawn: Collection[str]) -> LabelFile | str:
    """The label map that an entry names, or what is wrong with it.

    Args:
        folder: to which paths are relative.
        given: of the entry: a path; or by region, or by meaning of a number, a path, ``null`` where nothing is there,
            an object with ``file`` and perhaps ``channel`` of a 4-D file and ``value``, the number of the region, or a
            list of these, which are the region together.
        convention: of the case.
        not_drawn: regions that nobody drew in it, which need no file.

    Example:
        >>> regions, paint = {"liver": (1,), "tumour": (2,)}, {"liver": 1, "tumour": 2}
        >>> two = LabelConvention("x", {1: "liver", 2: "tumour"}, regions, paint)
        >>> label_of(Path("data"), {"liver": "l.nii", "tumour": {"file": "s.nii", "value": 3}}, two, ()).paths
        (PosixPath('data/l.nii'), PosixPath('data/s.nii'))
        >>> label_of(Path("data"), {"liver": "l.nii"}, two, ())
        'names no file for tumour; write null where none of it is there, or list it in "not_drawn"'
    """
    if isinstance(given, str) and given:
        return folder / given
    if not (isinstance(given, dict) and given):
        return f'is {given!r}; expected a path, or the file of each region, such as {{"tumour": path}}'
    meanings = list(convention.meanings.values())
    names = list(convention.regions) if set(given) <= set(convention.regions) else meanings
    if strange := [name for name in given if name not in names]:
        either = "" if meanings == list(convention.regions) else f", or all of the labels {', '.join(meanings)}"
        return f"names files for {', '.join(strange)}; expected the regions {', '.join(convention.regions)}{either}"
    if lacking := [name for name in names if name not in given and name not in not_drawn]:
        return (
            f'names no file for {", ".join(lacking)}; write null where none of it is there, or list it in "not_drawn"'
        )
    files: list[tuple[str, RegionFile | None]] = []
    for name in names:
        for part in _parts(given[name]) if name in given else ():
            file = None if part is None else _region_file(folder, part)
            if isinstance(file, str):
                return f"of {name} {file}"
            files.append((name, file))
    if not any(file for _, file in files):
        return "names no file at all"
    return RegionFiles(tuple(files))


def to_json(label: LabelFile, folder: Path) -> Any:
    """What an entry says of a label map, with paths relative to a folder."""
    if isinstance(label, Path):
        return _relative(label, folder)
    parts: dict[str, list[Any]] = {}
    for name, file in label.files:
        parts.setdefault(name, []).append(None if file is None else _file_to_json(file, folder))
    return {name: of[0] if len(of) == 1 else of for name, of in parts.items()}


def _parts(given: Any) -> list[Any]:
    """The files of one region: one, or those that are it together."""
    return given if isinstance(given, list) and given and None not in given else [given]


def _region_file(folder: Path, given: Any) -> RegionFile | str:
    """The file of one region, or what is wrong with it."""
    given = {"file": given} if isinstance(given, str) else given
    if isinstance(given, dict) and "file" in given and set(given) <= _KEYS:
        file, channel, value = given["file"], given.get("channel"), given.get("value")
        numbers = all(number is None or (type(number) is int and number >= 0) for number in (channel, value))
        if isinstance(file, str) and file and numbers:
            return RegionFile(folder / file, channel, value)
    return f'is {given!r}; expected a path, null, or {{"file": path, "channel": number, "value": number}}'


def _file_to_json(file: RegionFile, folder: Path) -> Any:
    path = _relative(file.path, folder)
    more = {"channel": file.channel, "value": file.value}
    said = {key: number for key, number in more.items() if number is not None}
    return {"file": path, **said} if said else path


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()
