"""What is told of a run's cases before its first step: conventions, lacking modalities, and how scans were changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from cggm_med.data.splits import Splits
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.errors import first_of
from cggm_med.results.tables import Table

Lacking = Mapping[str, Mapping[str, Sequence[str]]]


def lacking(
    held: Mapping[str, Collection[str]], modalities: Sequence[str], splits: Splits
) -> dict[str, dict[str, list[str]]]:
    """The modalities that cases lack, by split and case; complete cases are left out.

    Args:
        held: modalities of each case that was prepared, by id.
        modalities: of the run.
        splits: of the run.

    Example:
        >>> lacking({"a": ["t1"], "b": ["t1", "t2"]}, ["t1", "t2"], Splits(("a", "b"), (), ()))["train"]
        {'a': ['t2']}
    """
    absent = {id: [m for m in modalities if m not in of] for id, of in held.items()}
    return {name: {id: absent[id] for id in ids if absent[id]} for name, ids in splits.items()}


def lacking_tables(lacking: Lacking, modalities: Sequence[str], splits: Splits) -> tuple[Table, ...]:
    """How many cases of each split lack each modality, and which lack what; nothing where all are complete."""
    if not any(lacking.values()):
        return ()
    count = {name: len(ids) for name, ids in splits.items() if ids}
    per_modality = [
        (m, *(f"{sum(m in of for of in lacking[name].values())} of {total}" for name, total in count.items()))
        for m in modalities
    ]
    sets: dict[str, dict[str, list[str]]] = {}
    for name, of in lacking.items():
        for case, absent in of.items():
            sets.setdefault("+".join(absent), {}).setdefault(name, []).append(case)
    per_set = [
        (absent, *(f"{len(by_split[name])}: {first_of(by_split[name])}" if name in by_split else "-" for name in count))
        for absent, by_split in sets.items()
    ]
    return (
        Table("cases that lack a modality", ("modality", *count), tuple(per_modality)),
        Table("cases by what they lack", ("lacking", *count), tuple(per_set)),
    )


def followed(prepared: Sequence[PreparedCase]) -> dict[str, list[str]]:
    """The ids of the cases whose labels follow each convention, by its name."""
    ids: dict[str, list[str]] = {}
    for case in prepared:
        ids.setdefault(case.convention.name, []).append(case.id)
    return ids


def convention_tables(prepared: Sequence[PreparedCase]) -> tuple[Table, ...]:
    """What the label numbers of which cases mean; nothing where all follow one convention."""
    meaning = {case.convention.name: case.convention.describe() for case in prepared}
    rows = tuple((name, meaning[name], str(len(ids)), first_of(ids)) for name, ids in followed(prepared).items())
    named = ("convention", "labels", "cases", "such as")
    return (Table("cases follow several label conventions", named, rows),) if len(rows) > 1 else ()


def remarks(prepared: Sequence[PreparedCase], reference: str | None, rescaled: Collection[str]) -> Iterator[str]:
    """What was resampled, and which scans are normalised without knowing their background, in a line each.

    Args:
        prepared: the cases.
        reference: modality to whose grid the others are resampled.
        rescaled: modalities that are not z-scored, for which no background is needed.
    """
    moved = [case for case in prepared if "resampled" in case.facts]
    for grid in dict.fromkeys(case.facts["grid_of"] for case in moved):
        of = [case for case in moved if case.facts["grid_of"] == grid]
        counts = Counter(role for case in of for role in case.facts["resampled"])
        what = ", ".join(f"{role} in {n} cases" for role, n in counts.items())
        without = "" if grid == reference else f" (no {reference} in {first_of([case.id for case in of])})"
        yield f"resampled to the grid of {grid}{without}: {what}"
    found = [(case.id, m, value) for case in prepared for m, value in case.facts["background"].items()]
    if plain := dict.fromkeys(id for id, m, value in found if value is None and m not in rescaled):
        yield f"no constant background in {', '.join(plain)}: normalised over the whole image"
