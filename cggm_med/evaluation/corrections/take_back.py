"""Take corrected masks back: check them, say what changed, and write new data beside the old ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cggm_med.data.cases import SECTIONS, Case, can_be_id, stem
from cggm_med.data.folders.declared import NAME, is_declared, read_declared
from cggm_med.data.folders.proposal import entry_of
from cggm_med.data.folders.propose import open_points, propose
from cggm_med.data.layouts import read_json
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.grids import grid_difference
from cggm_med.data.volumes.io import open_image, write_volume
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.errors import DataError
from cggm_med.evaluation.corrections.hand_over import CASES, GIVEN, MASK, RECORD
from cggm_med.files import atomic_folder, digest_of, require_unused, write_json, write_text
from cggm_med.results.tables import Table, csv_text, rounded
from cggm_med.trees import parse_json

LABELS = "labels"  # folder of the corrected label maps
CHANGES = "changes.csv"


@dataclass(frozen=True)
class Correction:
    """A mask after correction.

    Attributes:
        id: of the case.
        mask: the corrected file.
        rows: of each label number that changed: ``before_ml``, ``after_ml``, ``added_ml`` and ``removed_ml``.
    """

    id: str
    mask: Path
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class TakenBack:
    """What came back.

    Attributes:
        corrections: the masks that changed.
        unchanged: ids of those that did not.
        questions: what the new list leaves open, as ``init`` does.
    """

    corrections: tuple[Correction, ...]
    unchanged: tuple[str, ...]
    questions: tuple[str, ...] = ()

    @property
    def table(self) -> Table:
        """What changed, for people."""
        header = ("case", "label", "before mL", "after mL", "added mL", "removed mL")
        rows = tuple(
            (of.id, row["label"], *(rounded(row[f"{key}_ml"], 2) for key in ("before", "after", "added", "removed")))
            for of in self.corrections
            for row in of.rows
        )
        return Table("corrected masks", header, rows)


def take_back(folder: Path, out: Path, data: Path | None = None) -> TakenBack:
    """Write a data set whose cases are those of the old one, with the corrected masks as labels.

    ``out`` holds ``dataset.json``, which names the old images where they lie, ``labels/`` with the corrected masks, and
    ``changes.csv``. Nothing of the old data is written to.

    Args:
        folder: that was handed over, with masks corrected in it.
        out: new or empty.
        data: where the data lie now; default: where they lay.

    Raises:
        DataError: if it is no such folder, nothing changed, or a mask is missing, damaged, on another grid or holds
            undeclared labels; names every such case.
        OutputError: if ``out`` holds files.
    """
    require_unused(out)
    record, convention = _record(folder)
    found, problems = [], list[str]()
    for entry in record["cases"]:
        case = str(entry["id"])
        correction = _correction(folder, case, str(entry["digest"]), convention)
        if isinstance(correction, str):
            problems.append(f"{case}: {correction}")
        else:
            found.append(correction)
    if problems:
        raise DataError(f"{folder}: these masks cannot be taken back:", problems)
    changed = tuple(of for of in found if of.rows)
    if not changed:
        raise DataError(
            f"{folder}: no mask differs from what was handed over; correct {MASK}.nii.gz of a case and save"
        )
    source = data or Path(record["data"])
    with atomic_folder(out) as temporary:
        labels = {of.id: out / LABELS / f"{of.id}.nii.gz" for of in changed}
        content, questions = _content(source, out, labels)
        for of in changed:
            stored = open_image(of.mask)
            write_volume(
                temporary / LABELS / f"{of.id}.nii.gz", _whole(stored.voxels()), folder / GIVEN / f"{of.id}.nii.gz"
            )
        write_json(temporary / NAME, content)
        write_text(temporary / CHANGES, csv_text([{"case": of.id, **row} for of in changed for row in of.rows]))
    return TakenBack(changed, tuple(of.id for of in found if not of.rows), questions)


def _record(folder: Path) -> tuple[Mapping[str, Any], LabelConvention]:
    """What was handed over, and in which convention."""
    file = folder / RECORD
    try:
        record = dict(parse_json(file.read_text()))
        of = record["convention"]
        convention = LabelConvention(
            of["name"],
            {int(label): meaning for label, meaning in of["meanings"].items()},
            {region: tuple(labels) for region, labels in of["regions"].items()},
            of["paint"],
            of["exclusive"],
            of["ignore"],
        )
        ids = [(entry["id"], entry["digest"])[0] for entry in record["cases"]]
        if not (isinstance(record["data"], str) and all(can_be_id(id) for id in ids)):
            raise ValueError("data or a case is no name")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = "it is not there" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise DataError(
            f"{file} cannot be read ({why}); name a folder that 'cggm-med evaluate --masks ... --worst N' wrote"
        ) from error
    return record, convention


def _correction(folder: Path, case: str, digest: str, convention: LabelConvention) -> Correction | str:
    """What became of a mask, or what is wrong with it."""
    given = folder / GIVEN / f"{case}.nii.gz"
    if not given.is_file() or digest_of(given.read_bytes()) != digest:
        return f"{given} is not what was handed over, so that changes cannot be seen; put it back"
    masks = [path for path in sorted((folder / CASES / case).glob("*")) if stem(path.name) == MASK]
    if len(masks) != 1:
        names = ", ".join(path.name for path in masks) or "no file"
        return f"{names} in {folder / CASES / case}; expected one, such as {MASK}.nii.gz"
    (mask,) = masks
    inspection = inspect(Case(case, case, {}, mask), convention)
    if inspection.problems:
        return "; ".join(inspection.problems)
    before, after = open_image(given), open_image(mask)
    if difference := grid_difference("mask", after, "mask as it was handed over", before):
        return f"{difference}; export it with an image of the case as reference volume"
    return Correction(case, mask, _changes(_whole(before.voxels()), _whole(after.voxels()), before.affine, convention))


def _changes(
    before: np.ndarray[Any, Any], after: np.ndarray[Any, Any], affine: np.ndarray[Any, Any], convention: LabelConvention
) -> tuple[Mapping[str, Any], ...]:
    """A row for each label number that changed anywhere."""
    ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    names = {**convention.meanings, **({} if convention.ignore is None else {convention.ignore: "not annotated"})}
    rows = []
    for label, meaning in sorted(names.items()):
        old, new = before == label, after == label
        if (old != new).any():
            counts = {"before": old, "after": new, "added": new & ~old, "removed": old & ~new}
            volumes = {f"{key}_ml": float(of.sum()) * ml for key, of in counts.items()}
            rows.append({"label": f"{label} {meaning}", **volumes})
    return tuple(rows)


def _content(source: Path, out: Path, labels: Mapping[str, Path]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The new list of cases, with paths relative to ``out``, and what it leaves open."""
    file = source / NAME if source.is_dir() else source
    declared = file.suffix.lower() == ".json" and file.is_file() and is_declared(read_json(file))
    if not declared:
        proposal = propose(source)
        proposal = replace(proposal, cases=_with_labels(proposal.cases, labels, source))
        questions = tuple(open_points(proposal))
        return replace(proposal, questions=questions).to_json(out), questions
    _, found = read_declared(file, need_labels=False)
    section_of = {id: section for section, ids in (found.sections or {}).items() for id in ids}
    content = {key: value for key, value in read_json(file).items() if key not in SECTIONS}
    for case in _with_labels(found.cases, labels, source):
        content.setdefault(section_of.get(case.id, "training"), []).append(entry_of(case, out))
    return content, ()


def _with_labels(cases: tuple[Case, ...], labels: Mapping[str, Path], source: Path) -> tuple[Case, ...]:
    if lacking := sorted(set(labels) - {case.id for case in cases}):
        raise DataError(f"{source} has no case {', '.join(lacking)}; say where the data lie with --data")
    return tuple(replace(case, label=labels[case.id]) if case.id in labels else case for case in cases)


def _whole(voxels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.rint(voxels).astype(np.uint16)
