"""Read a declared list: a JSON file that says what its cases have in common and where the files of each lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cggm_med.data.cases import (
    LABEL,
    SECTIONS,
    Case,
    CaseList,
    ImageFile,
    LabelFile,
    can_be_id,
    label_paths,
    natural_key,
)
from cggm_med.data.declaration import KEYS, Declaration
from cggm_med.data.folders.label_entries import label_of
from cggm_med.data.layouts import read_json
from cggm_med.errors import DataError, UnknownName
from cggm_med.files import absence

NAME = "dataset.json"
CASE_KEYS = ("id", "patient", LABEL, "raters", "convention", "not_drawn", "fold")
_OTHER_KEYS = ("questions", "comment")


def is_declared(content: Any) -> bool:
    """Whether the content of a JSON file is a declared list, not the list of another tool.

    Example:
        >>> is_declared({"modalities": {"flair": "mri"}, "training": []}), is_declared({"training": []})
        (True, False)
    """
    return isinstance(content, dict) and "modalities" in content


def read_declared(
    path: Path, *, need_labels: bool = True, run: Declaration | None = None
) -> tuple[Declaration, CaseList]:
    """The declaration and the cases of a declared list.

    Args:
        path: the file, or a folder that holds it as ``dataset.json``.
        need_labels: whether a case without label is an error; cases of the section ``test`` never need one.
        run: see ``declared_in``.

    Raises:
        UnknownName: for a key, modality, region or section that does not exist.
        DataError: see ``declared_in``.
    """
    file = path / NAME if path.is_dir() else path
    content = read_json(file)
    if not is_declared(content):
        raise DataError(
            f'{file} is no declared list; expected a JSON object with "modalities", "labels" and "training"'
        )
    return declared_in(content, file.parent, str(file), need_labels=need_labels, run=run)


def declared_in(
    content: Mapping[str, Any], folder: Path, source: str, *, need_labels: bool, run: Declaration | None = None
) -> tuple[Declaration, CaseList]:
    """The declaration and the cases that the content of a declared list tells.

    Args:
        content: of the file, or what such a file would say.
        folder: to which paths are relative.
        source: what messages call the list, such as its path.
        need_labels: see ``read_declared``.
        run: what a run's training data declared; it says what labels mean where the content lists scans alone.

    Raises:
        UnknownName: for a key, modality, region or section that does not exist.
        DataError: for open questions, and for what is missing or contradictory; names every such case.
    """
    if not (content.get("labels") or content.get("conventions")) and not _lists_labels(content, source):
        if run is None:
            raise DataError(f"{source} has no label, which training needs; its cases can be segmented with 'predict'")
        content = {**content, **run.labels_json()}
    declaration = Declaration.from_json(content, source)
    if questions := content.get("questions"):
        questions = questions if isinstance(questions, list) else [questions]
        raise DataError(
            f'{source} has open questions; settle each in the file, then delete it from its "questions":',
            [str(question) for question in questions],
        )
    cases: list[Case] = []
    problems: list[str] = []
    sections: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    user: dict[tuple[Path, int | None], str] = {}
    for section, where, entry in _entries(content, source):
        found = _case(entry, declaration, folder, f"{where} of {source}")
        if isinstance(found, str):
            problems.append(f"{where}: {found}")
            continue
        if first.setdefault(found.id, where) != where:
            problems.append(f"{found.id}: the same id twice: {first[found.id]} and {where}")
        problems += [f"{found.id}: {problem}" for problem in _problems(found, declaration)]
        if not found.labels and need_labels and section != "test":
            problems.append(f"{found.id}: no label (expected the key '{LABEL}' in {where})")
        for role, image in _files(found):
            key = (image.path, image.channel)
            if user.setdefault(key, f"{where} {role}") != f"{where} {role}":
                problems.append(f"{found.id}: {role} is the same file as {user[key]}: {image.path}")
        sections.setdefault(section, []).append(found.id)
        cases.append(found)
    if problems:
        raise DataError(f"{source}: fix or leave out these cases:", problems)
    if not cases:
        raise DataError(f"{source} lists no case; expected a section 'training' with at least one")
    ordered = {section: tuple(sorted(ids, key=natural_key)) for section, ids in sections.items()}
    declares_split = {"validation", "test"} & set(ordered)
    convention = next(iter(declaration.conventions)) if len(declaration.conventions) == 1 else None
    in_order = tuple(sorted(cases, key=lambda case: natural_key(case.id)))
    return declaration, CaseList(in_order, "declared list", convention, ordered if declares_split else None)


def _entries(content: Mapping[str, Any], source: str) -> Iterator[tuple[str, str, Any]]:
    """Section, place such as ``training[0]``, and content of each entry."""
    known = (*KEYS, *SECTIONS, *_OTHER_KEYS)
    for section, entries in content.items():
        if section not in known:
            raise UnknownName("key", section, known, f"It stands in {source}")
        if section in SECTIONS:
            for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
                yield section, f"{section}[{number}]", entry


def _lists_labels(content: Mapping[str, Any], source: str) -> bool:
    """Whether an entry has a label; a list without entries is left to say what it lacks."""
    entries = [entry for _, _, entry in _entries(content, source)]
    return not entries or any(isinstance(entry, dict) and {LABEL, "raters"} & set(entry) for entry in entries)


def _case(entry: Any, declaration: Declaration, folder: Path, where: str) -> Case | str:
    """The case of an entry, or what is wrong with it."""
    if not isinstance(entry, dict):
        return "expected an object with id, images by modality and label"
    known = (*CASE_KEYS, *declaration.modalities)
    for key in entry:
        if key not in known:
            raise UnknownName("key of a case", key, known, f"It stands in {where}")
    id = entry.get("id")
    if not (isinstance(id, str) and can_be_id(id)):
        return f"id {id!r}; expected a text that can be a file name"
    images: dict[str, ImageFile] = {}
    for modality in declaration.modalities:
        given = entry.get(modality)
        if given is None:
            continue
        image = _image(folder, given)
        if image is None:
            return f'{modality} is {given!r}; expected a path, or {{"file": path, "channel": number}}'
        images[modality] = image
    label, raters = entry.get(LABEL), entry.get("raters") or {}
    if not isinstance(entry.get("patient") or "x", str):
        return f'"patient" is {entry["patient"]!r}; expected a text'
    if not isinstance(raters, dict):
        return f'"raters" is {raters!r}; expected a label map of each, such as {{"reader1": path}}'
    convention = entry.get("convention")
    several = len(declaration.conventions) > 1
    if (several or convention is not None) and convention not in [*declaration.conventions]:
        return f'"convention" is {convention!r}; expected one of {", ".join(declaration.conventions)}'
    not_drawn = entry.get("not_drawn") or []
    if not (isinstance(not_drawn, list) and all(isinstance(n, str) for n in not_drawn)) or (
        not set(not_drawn) < set(declaration.regions)
    ):
        return f'"not_drawn" is {not_drawn!r}; expected some of the regions {", ".join(declaration.regions)}'
    meaning = declaration.conventions[convention or next(iter(declaration.conventions))]
    drawn: dict[str, LabelFile] = {}
    for role, given in {LABEL: label, **raters}.items() if label else raters.items():
        read = label_of(folder, given, meaning, not_drawn)
        if isinstance(read, str):
            return f"{role} {read}"
        drawn[role] = read
    return Case(
        id,
        entry.get("patient") or id,
        images,
        drawn.pop(LABEL, None) if label else None,
        convention=convention,
        not_drawn=tuple(not_drawn),
        raters=drawn,
        fold=None if entry.get("fold") is None else str(entry["fold"]),
    )


def _image(folder: Path, given: Any) -> ImageFile | None:
    if isinstance(given, str) and given:
        return ImageFile(folder / given)
    if isinstance(given, dict) and set(given) == {"file", "channel"}:
        file, channel = given["file"], given["channel"]
        if isinstance(file, str) and file and type(channel) is int and channel >= 0:
            return ImageFile(folder / file, channel)
    return None


def _problems(case: Case, declaration: Declaration) -> Sequence[str]:
    """Files and modalities that a case must have and lacks."""
    found = [
        f"no {modality}, which the data set requires"
        for modality in declaration.required
        if modality not in case.images
    ]
    found += [] if case.images else ["no image of any modality"]
    files = [(modality, image.path) for modality, image in case.images.items()]
    files += [(role, path) for role, label in case.labels.items() for path in label_paths(label)]
    absent = [(role, path) for role, path in files if not os.path.isfile(path)]
    return [*found, *(f"{role} {absence(path)}" for role, path in absent)]


def _files(case: Case) -> Iterator[tuple[str, ImageFile]]:
    """Images and label maps by role; of the latter each once, and not those of regions, which may share a file.

    Where nothing says what the readers agreed on, one reader's map may stand for the label.
    """
    yield from case.images.items()
    for role, label in case.labels.items():
        if isinstance(label, Path) and (role == LABEL or label != case.label):
            yield role, ImageFile(label)
