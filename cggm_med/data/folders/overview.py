"""A proposal for people: tables of modalities, label values, missing images and files left out, and a few lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cggm_med.data.cases import LABEL
from cggm_med.data.folders.inspection import Grid, Inspection
from cggm_med.data.folders.proposal import Labels
from cggm_med.errors import counted, first_of
from cggm_med.results.tables import Table

IGNORED = "ignored: not annotated"


def tables(found: Inspection) -> Iterator[Table]:
    """What a proposal holds, as far as it is many of a kind; a table without rows is left out.

    Args:
        found: the proposal and what its files hold.
    """
    proposal = found.proposal
    yield Table(
        "modalities",
        ("modality", "usual name", "kind", "normalisation", "cases"),
        tuple(_modality(found, name) for name in proposal.modalities),
    )
    yield Table("grids", ("of", "shape", "mm", "axes"), tuple(_grids(found)))
    for name, labels in proposal.labels.items():
        if rows := tuple(_label_rows(found, name, labels)):
            yield Table(f"labels {name}".strip(), ("label", "meaning", "regions", "voxels", "cases"), rows)
    lacking = proposal.lacking()
    if lacking:
        absent = {m: [id for id, of in lacking.items() if m in of] for m in proposal.modalities}
        rows = tuple((m, str(len(ids)), first_of(ids)) for m, ids in absent.items() if ids)
        yield Table("lacking", ("modality", "cases without it", "such as"), rows)
    if proposal.left_out:
        rows = tuple(
            (reason, str(len(files)), _below(files[0], proposal.path)) for reason, files in proposal.left_out.items()
        )
        yield Table("left out", ("reason", "files", "such as"), rows)


def lines(found: Inspection) -> Iterator[str]:
    """What a proposal holds, in a line each: what was recognised, cases, sections, folds and notes."""
    proposal = found.proposal
    layout = "no known layout, read by its file names" if proposal.kind == "any_names" else proposal.kind
    yield f"{proposal.path}: {layout}; proposed as the data set '{proposal.name}'"
    patients = len({case.patient for case in proposal.cases})
    labelled = sum(case.label is not None for case in proposal.cases)
    yield f"{counted(len(proposal.cases), 'case')} of {counted(patients, 'patient')}, {labelled} with a label"
    if proposal.sections:
        yield "sections: " + ", ".join(f"{section} {len(ids)}" for section, ids in proposal.sections.items())
    folds = Counter(case.fold for case in proposal.cases if case.fold is not None)
    if folds:
        yield "folds: " + ", ".join(f"{fold}: {count} cases" for fold, count in sorted(folds.items()))
    raters = sorted({name for case in proposal.cases for name in case.raters})
    if raters:
        yield f"raters beside the label: {first_of(raters, 8)}"
    if proposal.reference is not None:
        yield f"reference: {proposal.reference}, to whose grid the others are resampled"
    if proposal.lesion_rules is not None:
        yield f"lesions, as the publication of the labels counts them: {proposal.lesion_rules.describe()}"
    for note in proposal.notes:
        yield f"note: {note}"


def _modality(found: Inspection, name: str) -> tuple[str, ...]:
    modality = found.proposal.modalities[name]
    having = sum(name in case.images for case in found.proposal.cases)
    cases = f"{having} of {len(found.proposal.cases)}"
    return (
        name,
        modality.shows if modality.shows not in ("", name) else "-",
        modality.kind,
        modality.normalisation,
        cases,
    )


def _grids(found: Inspection) -> Iterator[tuple[str, ...]]:
    """One row for images and labels whose grids have the same range of shapes and voxel sizes over all cases."""
    named: dict[tuple[str, str, str], list[str]] = {}
    for role in (*found.proposal.modalities, LABEL):
        named.setdefault(_extent([of[role] for of in found.grids.values() if role in of]), []).append(role)
    for extent, roles in named.items():
        yield ", ".join(roles), *extent


def _extent(grids: Sequence[Grid]) -> tuple[str, str, str]:
    """Shapes, voxel sizes and axes of several grids, from the least to the largest."""
    if not grids:
        return "-", "-", "-"
    axes = Counter(grid.axes for grid in grids)
    return (
        "x".join(_range(sizes) for sizes in zip(*(grid.shape for grid in grids), strict=True)),
        "x".join(_range(sizes) for sizes in zip(*(grid.spacing for grid in grids), strict=True)),
        " ".join(name for name, _ in axes.most_common()),
    )


def _range(numbers: Iterable[float]) -> str:
    """One number, or the least and the largest.

    Example:
        >>> _range([1, 1]), _range([0.46875, 1.2])
        ('1', '0.469-1.2')
    """
    shown = list(dict.fromkeys(f"{number:.3g}" if number < 100 else f"{number:.0f}" for number in sorted(numbers)))
    return shown[0] if len(shown) == 1 else f"{shown[0]}-{shown[-1]}"


def _label_rows(found: Inspection, name: str, labels: Labels) -> Iterator[tuple[str, ...]]:
    counts = found.counts(name or None)
    known = {**labels.meanings, **({} if labels.ignore is None else {labels.ignore: IGNORED})}
    for value in sorted({*known, *counts}):
        voxels, cases = counts.get(value, (0, 0))
        regions = ", ".join(region for region, held in labels.regions.items() if value in held)
        meaning = known.get(int(value), "?") if float(value).is_integer() else "?"
        yield f"{value:g}", meaning, regions or "-", f"{voxels:,}", str(cases)


def _below(file: Path, place: Path) -> str:
    folder = place if place.is_dir() else place.parent
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)
