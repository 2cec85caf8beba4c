"""What a list of another tool says of its cases: entries by section, where their files lie here, and the proposal."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from cggm_med.data.cases import LABEL, Case, can_be_id, stem
from cggm_med.data.folders.channels import Channels
from cggm_med.data.folders.conventions import published_patients
from cggm_med.data.folders.patients import patients_of
from cggm_med.data.folders.proposal import Labels, Proposal
from cggm_med.data.folders.scans import APPLE_DOUBLE, twins_under
from cggm_med.data.layouts import files_under
from cggm_med.errors import DataError, first_of

SECTION_OF = {
    **dict.fromkeys(("training", "train"), "training"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NOT_LISTED = "not named by the list"
ID_KEYS = ("id", "case_id", "case_identifier", "case", "name", "uid")
PATIENT_KEYS = ("patient", "patient_id", "subject", "subject_id")
LABEL_KEYS = (LABEL, "labels", "seg", "segmentation", "mask", "target")
_GZIP = ".gz"


@dataclass(frozen=True)
class Entry:
    """One case as a list names it.

    Attributes:
        section: ``training``, ``validation`` or ``test``.
        where: such as ``training[0]``.
        images: paths as they are written, by key of the entry; those of a list have the key and their number, from 1;
            those of an object its keys.
        label: path as it is written, if there is one.
        id: if the entry states one.
        patient: if the entry states one.
        fold: of a cross-validation, if the entry states one.
    """

    section: str
    where: str
    images: Mapping[str, str]
    label: str | None
    id: str | None = None
    patient: str | None = None
    fold: str | None = None


def entries_of(content: Mapping[str, Any]) -> Iterator[Entry | str]:
    """The entries of all sections; one that cannot be understood is told in a sentence.

    Example:
        >>> (entry,) = entries_of({"training": [{"image": ["a_t1.nii", "a_t2.nii"], "label": "a.nii", "fold": 0}]})
        >>> entry.images, entry.label, entry.fold
        ({'image 1': 'a_t1.nii', 'image 2': 'a_t2.nii'}, 'a.nii', '0')
    """
    for key, given in content.items():
        section = SECTION_OF.get(key.lower())
        if section is None or not isinstance(given, list):
            continue
        for number, entry in enumerate(given):
            where = f"{key}[{number}]"
            # Lists of test cases often hold the bare paths.
            entry = {"image": entry} if isinstance(entry, str) else entry if isinstance(entry, dict) else {}
            images = dict(_images(entry))
            if not images:
                yield f"{where} names no image; expected such as {{'image': path, 'label': path}}"
                continue
            if several := next((key for key in LABEL_KEYS if _several(entry.get(key))), None):
                yield f"{where} lists several files under {several!r}; expected one label map"
                continue
            yield Entry(
                section,
                where,
                images,
                _first(entry, LABEL_KEYS),
                id=_first(entry, ID_KEYS),
                patient=_first(entry, PATIENT_KEYS),
                fold=_first(entry, ("fold",)),
            )


def _images(entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    described = (*ID_KEYS, *PATIENT_KEYS, *LABEL_KEYS, "fold")
    for key, given in entry.items():
        if isinstance(given, dict) and key not in described:
            yield from (
                (name, path) for name, path in given.items() if isinstance(path, str) and looks_like_image(path)
            )
            continue
        texts = given if isinstance(given, list) and all(isinstance(path, str) and path for path in given) else []
        if texts and (key == "image" or (key not in described and all(map(looks_like_image, texts)))):
            yield from ([(key, texts[0])] if len(texts) == 1 else ((f"{key} {k}", p) for k, p in enumerate(texts, 1)))
        elif isinstance(given, str) and (key == "image" or (key not in described and looks_like_image(given))):
            yield key, given


def _several(given: Any) -> bool:
    return isinstance(given, list) and len(given) > 1


def _first(entry: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first text or number under one of the keys."""
    for key in keys:
        given = entry.get(key)
        given = given[0] if isinstance(given, list) and len(given) == 1 else given
        if isinstance(given, str | int) and not isinstance(given, bool) and given != "":
            return str(given)
    return None


def looks_like_image(path: str) -> bool:
    """Whether a text could be the path of a volume.

    Example:
        >>> [looks_like_image(text) for text in ("a/b_t1.nii.gz", "c.nrrd", "male", "0.5", "notes.txt")]
        [True, True, False, False, False]
    """
    return bool(stem(path)) or path.lower().endswith(".img")


def base_name(path: str | Path) -> str:
    """The name of an image file without folder and ending.

    Example:
        >>> base_name("a/b.v2.nii.gz"), base_name("c.nrrd")
        ('b.v2', 'c')
    """
    name = PurePosixPath(str(path).replace("\\", "/")).name
    return stem(name) or name.rpartition(".")[0] or name


class ListedFiles:
    """Finds the files that a list names, and keeps what it could not find or found elsewhere.

    A path may be relative to the list or to another folder that the list names; it may have been written on another
    machine, and then its end is looked for below these folders; a file may have been packed or unpacked since.
    """

    def __init__(self, listing: Path, folders: Sequence[Path]) -> None:
        self.listing = listing
        self.folders = folders
        self.missing: list[str] = []
        self.found: set[Path] = set()
        self._elsewhere: tuple[str, Path] | None = None

    def find(self, given: str, where: str) -> Path | None:
        """The file, or None after it has been noted as missing."""
        file = self.look(given)
        if file is None:
            self.missing.append(f"{where}: {given}")
        return file

    def look(self, given: str) -> Path | None:
        """The file, if there is one."""
        path = os.path.expandvars(given)
        file = self._below(path)
        parts = PurePosixPath(path.replace("\\", "/")).parts
        for start in range(1, len(parts)):
            if file is not None:
                break
            file = self._below(os.path.join(*parts[start:]))
            if file is not None and self._elsewhere is None:
                self._elsewhere = (given, file)
        if file is not None:
            self.found.add(file)
        return file

    def _below(self, path: str) -> Path | None:
        other = path[: -len(_GZIP)] if path.lower().endswith(_GZIP) else path + _GZIP
        candidates = (Path(folder, name) for name in (path, other) for folder in self.folders)
        return next((file for file in candidates if os.path.isfile(file)), None)

    def refusals(self) -> tuple[str, ...]:
        """One line about all that is missing."""
        if not self.missing:
            return ()
        return (
            f"{len(self.missing)} files that {self.listing.name} names do not exist: {first_of(self.missing, 3)}; copy "
            "them, or delete their cases from the list",
        )

    def notes(self) -> tuple[str, ...]:
        """One line if paths were written elsewhere."""
        if self._elsewhere is None:
            return ()
        given, file = self._elsewhere
        return (f"some paths are those of another folder: {given} is taken to be {file}",)


class Listed:
    """The entries of a list, with an id each.

    Raises:
        DataError: if it lists no case.
    """

    def __init__(self, listing: Path, content: Any, folders: Sequence[Path]) -> None:
        found = list(entries_of(content)) if isinstance(content, dict) else []
        self.entries = [entry for entry in found if isinstance(entry, Entry)]
        self.problems = [entry for entry in found if isinstance(entry, str)]
        if not self.entries and self.problems:
            raise DataError(f"{listing} lists no case that can be understood:", self.problems)
        if not self.entries:
            raise DataError(f"{listing} lists no case; expected a list 'training' of entries with image and label")
        self.files = ListedFiles(listing, folders)
        self.ids = names_of_cases(self.entries)
        self.keys = tuple(dict.fromkeys(key for entry in self.entries for key in entry.images))

    @property
    def sections(self) -> dict[str, list[str]]:
        """The ids of each section."""
        sections: dict[str, list[str]] = {}
        for id, entry in zip(self.ids, self.entries, strict=True):
            sections.setdefault(entry.section, []).append(id)
        return sections


def proposal_of_list(
    kind: str,
    file: Path,
    name: Any,
    channels: Channels,
    labels: Labels,
    cases: Sequence[Case],
    sections: Mapping[str, Sequence[str]],
    files: ListedFiles,
    *,
    refusals: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Proposal:
    """What was made of a list, with what its channels and its files say.

    Args:
        kind: family of the layout.
        file: that was read.
        name: of the data set, if the list has one.
        channels: modalities, questions and notes.
        labels: meanings of the numbers.
        cases: found; one whose patient is empty shows whom its id tells, beside the ids of the others.
        sections: ids of each; a list of training cases alone declares none.
        files: what was looked for.
        refusals: besides files that are missing.
        notes: besides those of channels and files.
    """
    told = patients_of(case.id for case in cases if not case.patient)
    told |= published_patients(told)
    cases = [case if case.patient else replace(case, patient=told[case.id]) for case in cases]
    divided = {section: tuple(ids) for section, ids in sections.items() if ids}
    return Proposal(
        kind,
        file,
        str(name or file.parent.name),
        channels.modalities,
        {"": labels},
        tuple(cases),
        divided if set(divided) - {"training"} else None,
        questions=channels.questions,
        refusals=(*refusals, *files.refusals()),
        left_out=left_out_below(file.parent, files.found),
        notes=(*channels.notes, *files.notes(), *notes),
    )


def names_of_cases(entries: Sequence[Entry]) -> list[str]:
    """An id for each entry: stated, else the part that its file names share, else its folder; unique in any case.

    Example:
        >>> def entry(*images):
        ...     return Entry("training", "", dict(enumerate(images)), None)
        >>> names_of_cases([entry("a/p1_t1.nii", "a/p1_t2.nii"), entry("a/p2_t1.nii", "a/p2_t2.nii")])
        ['p1', 'p2']
        >>> names_of_cases([entry("case_1/imaging.nii"), entry("case_2/imaging.nii")])
        ['case_1', 'case_2']
    """
    for name in (_stated, _shared, _own, _folder, _folders):
        names = [name(entry) for entry in entries]
        if all(names) and len(set(names)) == len(names):
            return names
    return [entry.where.replace("[", "-").rstrip("]") for entry in entries]


def _stated(entry: Entry) -> str:
    id = entry.id or ""
    id = base_name(id) if looks_like_image(id) else id
    return id if can_be_id(id) else ""


def _shared(entry: Entry) -> str:
    names = [base_name(path) for path in (*entry.images.values(), *([entry.label] if entry.label else []))]
    return shared_beginning(names)


def shared_beginning(names: Sequence[str]) -> str:
    """What all names begin with, up to where a word of each ends.

    Example:
        >>> shared_beginning(["p1_t1", "p1_t2"]), shared_beginning(["p1__CT", "p1__PT", "p1"]), shared_beginning(["a"])
        ('p1', 'p1', 'a')
    """
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in same)
    if any(name[len(start) : len(start) + 1].isalnum() and start[-1:].isalnum() for name in names):
        start = re.sub(r"[^\W_]+$", "", start)
    return start.strip("-_. ")


def _own(entry: Entry) -> str:
    return re.sub(r"_0000$", "", base_name(next(iter(entry.images.values()))))


def _folder(entry: Entry) -> str:
    return PurePosixPath(next(iter(entry.images.values())).replace("\\", "/")).parent.name


def _folders(entry: Entry) -> str:
    return "-".join(PurePosixPath(next(iter(entry.images.values())).replace("\\", "/")).parent.parts[-2:])


def left_out_below(folder: Path, used: set[Path]) -> dict[str, tuple[Path, ...]]:
    """Volumes below a folder that no case uses, by reason; hidden folders are not entered."""
    known = {os.path.realpath(file) for file in used}
    volumes = [file for file in files_under(folder, skip_unreadable=True) if looks_like_image(file.name)]
    unused = tuple(file for file in volumes if os.path.realpath(file) not in known)
    return {reason: of for reason, of in ((APPLE_DOUBLE, twins_under(folder)), (NOT_LISTED, unused)) if of}
