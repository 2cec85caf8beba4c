"""Finding cases on disk, in every layout that users have: which files belong together, and under which id."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cggm_med.data.cases import ENDINGS, LABEL, SECTIONS, Case, CaseList, ImageFile, can_be_id, natural_key, stem
from cggm_med.data.patients import patients_among
from cggm_med.errors import DataError, UnknownName, kind_of
from cggm_med.files import absence, did_you_mean


@dataclass(frozen=True)
class NamedFiles:
    """A layout with one file a modality, told by the end of the file's name.

    Attributes:
        name: the layout's name, for messages.
        suffixes: what follows the case id in each modality's file name, such as ``{"flair": "_flair"}``.
        label_suffix: the same for the label.
        label_convention: name of the convention that such labels follow; None where the layout does not tell.
        patient_pattern: regular expression; its group 1, matched at the start of the case id, is the patient. Without
            one, visits and dates are told by what the names of all cases have in common.
    """

    name: str
    suffixes: Mapping[str, str]
    label_suffix: str
    label_convention: str | None
    patient_pattern: str | None = None

    def tell(self, name: str) -> tuple[str, str] | None:
        """Case id and role (a modality or ``"label"``) of a file name; None if it is none of this layout's.

        Example:
            >>> layout = NamedFiles("brats2023", {"t2": "-t2w"}, "-seg", None, "(.+)-[0-9]+")
            >>> layout.tell("BraTS-GLI-00001-000-t2W.nii.gz")
            ('BraTS-GLI-00001-000', 't2')
        """
        base = stem(name)
        ends = [(len(end), role) for role, end in self._ends().items() if base.lower().endswith(end.lower())]
        # The longest end wins, so that a suffix may end with another one.
        length, role = max(ends, default=(0, ""))
        return (base[:-length], role) if 0 < length < len(base) else None

    def expected(self, case_id: str, role: str, like: Path) -> str:
        """File name that ``role`` of a case should have, with the extension of its sibling ``like``."""
        return case_id + self._ends()[role] + like.name[len(stem(like.name)) :]

    def _ends(self) -> dict[str, str]:
        return {**self.suffixes, LABEL: self.label_suffix}


def find_cases(
    path: Path,
    modalities: Sequence[str],
    layouts: Sequence[NamedFiles],
    *,
    decathlon_modalities: Mapping[str, str],
    decathlon_convention: str,
    known_modalities: Sequence[str],
    need_labels: bool = True,
    required: Sequence[str] | None = None,
    remedy: str = "",
) -> CaseList:
    """Find the cases that a folder or a JSON file holds, without opening an image.

    Three kinds of layout are read: folders of named files, with or without a folder for each case, also of several
    releases that name them differently (then each case names its convention); the Medical
    Segmentation Decathlon (``dataset.json``, http://medicaldecathlon.com), one 4-D file a case; and MONAI-style
    datalists, whose paths are absolute or relative to the list.

    Args:
        path: a folder, or a ``.json`` file.
        modalities: those to read, in the order in which ``Case.images`` shall hold them.
        layouts: the named-file layouts to look for.
        decathlon_modalities: modality of each name, in lower case, that a ``dataset.json`` may use.
        decathlon_convention: name of the label convention of such a data set.
        known_modalities: all modalities that a datalist may name.
        need_labels: whether a case without label is an error.
        required: modalities without which a case is an error; default: all of ``modalities``. A case without any of
            ``modalities`` always is one.
        remedy: what else helps where a modality is missing, for the message.

    Raises:
        UnknownName: for a modality, a datalist section or a datalist key that does not exist.
        DataError: if nothing is found, or any case is incomplete, ambiguous or listed twice; names every such case.
    """
    for modality in modalities:
        if modality not in known_modalities:
            raise UnknownName("modality", modality, known_modalities)
    wanted = _Wanted(tuple(modalities), tuple(modalities if required is None else required), need_labels, remedy)
    listing = path / "dataset.json" if path.is_dir() else path
    if path.is_dir() and not listing.is_file():
        return _read_named(path, wanted, layouts)
    if not path.exists():
        near = did_you_mean(path)
        raise DataError(f"{path} does not exist{near}; expected a folder of images or a datalist (.json)")
    if listing.suffix.lower() != ".json":
        raise DataError(f"{path} is a file; expected a folder of images or a datalist (.json)")
    content = read_json(listing)
    if not isinstance(content, dict):
        raise DataError(f"{listing} holds {kind_of(content)}; expected a JSON object with a section 'training'")
    if "modality" in content:
        channels = _decathlon_channels(listing, content["modality"], decathlon_modalities, modalities)
        return _read_decathlon(listing, content, channels, decathlon_convention, need_labels)
    return _read_datalist(listing, content, wanted, known_modalities)


@dataclass(frozen=True)
class _Wanted:
    """What is wanted of each case, see ``find_cases``."""

    modalities: tuple[str, ...]
    required: tuple[str, ...]
    need_labels: bool
    remedy: str

    def missing(self, held: Container[str]) -> list[str]:
        """Roles that a case must have and lacks; of a case without any image all are missing."""
        images = self.required if any(m in held for m in self.modalities) else self.modalities
        return [role for role in (*images, *((LABEL,) if self.need_labels else ())) if role not in held]


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        DataError: if it cannot be read or parsed; names line and column.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"cannot read {path}: it does not exist{did_you_mean(path)}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON in UTF-8: {error}") from error


def _read_named(folder: Path, wanted: _Wanted, layouts: Sequence[NamedFiles]) -> CaseList:
    paths = files_under(folder)
    matches = [(layout, [(file, *of) for file in paths if (of := layout.tell(file.name))]) for layout in layouts]
    held = [(layout, files) for layout, files in matches if any(role != LABEL for _, _, role in files)]
    if not held:
        known = [
            f"{layout.name}: *{', *'.join(layout.suffixes.values())} ({' or '.join(ENDINGS)})" for layout in layouts
        ]
        known += ["decathlon: dataset.json", "datalist: give the path of the .json file"]
        known.append(f"other names: 'cggm-med init {folder} -o dataset.json' proposes such a list")
        raise DataError(f"no images found in {folder} (searched its subfolders too); known layouts:", known)
    told = Counter(file for _, files in held for file, _, _ in files)
    if both := [file for file, times in told.items() if times > 1]:
        names = [layout.name for layout, files in held if any(file == both[0] for file, _, _ in files)]
        raise DataError(f"{both[0]} is named as in {' and in '.join(names)}; give a folder with one of these layouts")
    for layout, _ in held:
        for modality in wanted.modalities:
            if modality not in layout.suffixes:
                raise DataError(
                    f"layout {layout.name} has no modality {modality}; it has {', '.join(layout.suffixes)}. Choose "
                    "among these (task.modalities), or name the files of each case in a list"
                )
    found = [_named_cases(layout, files, wanted) for layout, files in held]
    problems = [problem for of in found for problem in of.problems]
    first: dict[str, Path] = {}
    for id, file in ((id, file) for of in found for id, file in of.files.items()):
        if first.setdefault(id.lower(), file) != file:
            problems.append(f"{id}: the same id twice: {first[id.lower()]} and {file}")
    remedy = wanted.remedy if any(of.lacking for of in found) else ""
    if len(held) == 1:
        ((layout, _),) = held
        return _finish(folder, list(found[0].cases), problems, layout.name, layout.label_convention, remedy=remedy)
    # Each case keeps the convention of its layout, for the same number may mean something else in another.
    cases = [
        replace(case, convention=layout.label_convention)
        for (layout, _), of in zip(held, found, strict=True)
        for case in of.cases
    ]
    return _finish(folder, cases, problems, " and ".join(layout.name for layout, _ in held), None, remedy=remedy)


@dataclass(frozen=True)
class _NamedCases:
    """The cases of one layout, what is wrong, whether an image is missing, and a file of each case by its id."""

    cases: Sequence[Case]
    problems: Sequence[str]
    lacking: bool
    files: Mapping[str, Path]


def _named_cases(layout: NamedFiles, files: Sequence[tuple[Path, str, str]], wanted: _Wanted) -> _NamedCases:
    # Letter case varies between the files of one case and between the cases of one patient: the first spelling counts.
    ids: dict[str, str] = {}
    patients: dict[str, str] = {}
    found: dict[str, dict[str, list[Path]]] = {}
    for file, case_id, role in files:
        found.setdefault(ids.setdefault(case_id.lower(), case_id), {}).setdefault(role, []).append(file)
    cases, problems, lacking = [], [], False
    whose = _patients(layout.patient_pattern, found)
    for case_id, roles in sorted(found.items(), key=lambda item: natural_key(item[0])):
        some_file = next(iter(roles.values()))[0]
        absent = wanted.missing(roles)
        missing = [f"no {role} (expected {layout.expected(case_id, role, some_file)})" for role in absent]
        lacking |= any(role != LABEL for role in absent)
        if missing:
            problems.append(f"{case_id}: {', '.join(missing)}")
        role, several = max(roles.items(), key=lambda item: len(item[1]))
        if len(several) > 1:
            one_folder = several[0].parent == several[1].parent
            what = f"two files of {role}" if one_folder else "the same id twice"
            problems.append(f"{case_id}: {what}: {several[0]} and {several[1]}")
        if not (patient := whose[case_id]):
            problems.append(f"{case_id}: its patient cannot be told from its name; write a datalist that names it")
        elif not missing:
            images = {modality: ImageFile(roles[modality][0]) for modality in wanted.modalities if modality in roles}
            spelled = patients.setdefault(patient.lower(), patient)
            cases.append(Case(case_id, spelled, images, roles.get(LABEL, [None])[0]))
    return _NamedCases(cases, problems, lacking, {id: next(iter(of.values()))[0] for id, of in found.items()})


def _patients(pattern: str | None, ids: Iterable[str]) -> dict[str, str]:
    """The patient of each case; empty where a pattern does not find one."""
    if pattern is None:
        return patients_among(ids)
    told = {id: re.match(pattern, id, re.IGNORECASE) for id in ids}
    return {id: match[1] or "" if match else "" for id, match in told.items()}


def _decathlon_channels(
    path: Path, named: Any, decathlon_modalities: Mapping[str, str], modalities: Sequence[str]
) -> dict[str, int | None]:
    """Channel of each wanted modality; None where the data set has but one modality and its files are 3-D."""
    counted = isinstance(named, dict) and set(named) == {str(channel) for channel in range(len(named))}
    names = [str(named[str(channel)]) for channel in range(len(named))] if counted else []
    known = [decathlon_modalities.get(name.lower()) for name in names]
    if not names or any(known.count(modality) > 1 for modality in modalities):
        raise DataError(
            f'{path}: "modality" is {named}; expected names by channel, such as {{"0": "FLAIR"}}, each once'
        )
    for modality in modalities:
        if modality not in known:
            raise DataError(
                f"{path} has no modality {modality}; it names {', '.join(names)}. Choose among these (task.modalities)"
            )
    return {modality: known.index(modality) if len(names) > 1 else None for modality in modalities}


def _read_decathlon(
    path: Path, content: Mapping[str, Any], channels: Mapping[str, int | None], convention: str, need_labels: bool
) -> CaseList:
    cases, problems = [], []
    first: dict[str, Path] = {}
    # The section "test" lists images without labels; there is nothing to learn or to measure on them.
    sections = ("training",) if need_labels else ("training", "test")
    for where, listed in _numbered(content, sections):
        entry = {"image": listed} if where.startswith("test") and isinstance(listed, str) else listed
        if not (isinstance(entry, dict) and isinstance(entry.get("image"), str) and entry["image"]):
            problems.append(f'{where}: expected {{"image": path, "label": path}}')
            continue
        image, label = path.parent / entry["image"], entry.get(LABEL)
        case_id = stem(image.name) or image.name
        files = {"image": image, LABEL: path.parent / label} if label and isinstance(label, str) else {"image": image}
        problems += _absent(case_id, files)
        if need_labels and LABEL not in files:
            problems.append(f"{case_id}: no label (expected the key '{LABEL}' in {where})")
        if case_id in first:
            problems.append(f"{case_id}: the same id twice: {first[case_id]} and {image}")
        first.setdefault(case_id, image)
        images = {modality: ImageFile(image, channel) for modality, channel in channels.items()}
        cases.append(Case(case_id, "", images, files.get(LABEL)))
    return _finish(path, cases, problems, "decathlon", convention)


def _numbered(content: Mapping[str, Any], sections: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Place such as ``training[0]``, and content of each entry of these sections."""
    for section in sections:
        entries = content.get(section)
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            yield f"{section}[{number}]", entry


def _read_datalist(path: Path, content: dict[str, Any], wanted: _Wanted, known: Sequence[str]) -> CaseList:
    cases, problems, lacking = [], [], False
    first: dict[str, str] = {}
    user: dict[Path, str] = {}
    sections: dict[str, list[str]] = {}
    for section, where, entry in _datalist_entries(path, content, ("id", "patient", LABEL, *known)):
        if wrong := _wrong_entry(entry):
            problems.append(f"{where}: {wrong}")
            continue
        case_id = entry["id"]
        absent = wanted.missing([role for role, file in entry.items() if file])
        lacking |= any(role != LABEL for role in absent)
        if missing := [f"no {role} (expected the key '{role}' in {where})" for role in absent]:
            problems.append(f"{case_id}: {', '.join(missing)}")
        files = {role: path.parent / entry[role] for role in (*wanted.modalities, LABEL) if entry.get(role)}
        problems += _absent(case_id, files)
        if first.setdefault(case_id, where) != where:
            problems.append(f"{case_id}: the same id twice: {first[case_id]} and {where}")
        for role, file in files.items():
            if user.setdefault(file, f"{where} {role}") != f"{where} {role}":
                problems.append(f"{case_id}: {role} is the same file as {user[file]}: {file}")
        sections.setdefault(section, []).append(case_id)
        if not missing:
            images = {modality: ImageFile(files[modality]) for modality in wanted.modalities if modality in files}
            cases.append(Case(case_id, entry.get("patient") or "", images, files.get(LABEL)))
    ordered = {section: tuple(sorted(ids, key=natural_key)) for section, ids in sections.items()}
    return _finish(path, cases, problems, "datalist", None, ordered, wanted.remedy if lacking else "")


def _datalist_entries(path: Path, content: dict[str, Any], keys: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Section, place such as ``training[0]``, and content of each entry, whose keys are known."""
    for section, entries in content.items():
        # Lists of objects are sections; other things, such as "name" or "numTraining", describe the data set.
        is_section = isinstance(entries, list) and any(isinstance(entry, dict) for entry in entries)
        if section not in SECTIONS:
            if is_section:
                raise UnknownName("datalist section", section, SECTIONS, f"It stands in {path}")
            continue
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            where = f"{section}[{number}]"
            for key in entry if isinstance(entry, dict) else ():
                if key not in keys:
                    raise UnknownName("datalist key", key, keys, f"It stands in {where} of {path}")
            yield section, where, entry


def _wrong_entry(entry: Any) -> str | None:
    """What is wrong with a datalist entry as such, before its files are looked at."""
    if not isinstance(entry, dict):
        return "expected an object with id, modalities and label"
    for key, value in entry.items():
        # null is how exporters of tables write a cell that is empty.
        if value is not None and not (isinstance(value, str) and value):
            return f"{key} is {value!r}; expected a text"
    if not entry.get("id"):
        return "no id"
    if not can_be_id(entry["id"]):
        return f"id {entry['id']!r} cannot be a file name"
    return None


def _finish(
    path: Path,
    cases: list[Case],
    problems: list[str],
    layout: str,
    convention: str | None,
    sections: Mapping[str, tuple[str, ...]] | None = None,
    remedy: str = "",
) -> CaseList:
    if problems:
        raise DataError(f"{path} ({layout}): fix or leave out these cases{remedy}:", problems)
    if not cases:
        raise DataError(f"{path} ({layout}) lists no case; expected a section 'training' with at least one")
    told = patients_among(case.id for case in cases if not case.patient)
    cases = [case if case.patient else replace(case, patient=told[case.id]) for case in cases]
    return CaseList(tuple(sorted(cases, key=lambda case: natural_key(case.id))), layout, convention, sections)


def files_under(folder: Path, *, skip_unreadable: bool = False) -> list[Path]:
    """All files that are not hidden, sorted by folder; links to folders are followed, each folder once.

    Raises:
        DataError: if a folder cannot be read, unless such are to be skipped.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read folder {error.filename}: {error.strerror}; allow it or give another") from error

    files: list[Path] = []
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=None if skip_unreadable else refuse, followlinks=True):
        new = (real := os.path.realpath(root)) not in seen
        seen.add(real)
        folders[:] = sorted(name for name in folders if new and not name.startswith("."))
        # A leading dot also marks the AppleDouble twins (._name.nii.gz) that macOS leaves beside the images.
        files += [Path(root, name) for name in sorted(names) if new and not name.startswith(".")]
    return files


def _absent(case_id: str, files: Mapping[str, Path]) -> list[str]:
    return [f"{case_id}: {role} {absence(file)}" for role, file in files.items() if not os.path.isfile(file)]
