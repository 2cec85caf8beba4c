"""The scores of segmented regions: one row a case and region, and what all cases say together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from cggm_med.report import CaseValues, Record, Scores, Table

EMPTY_KINDS = {"missed": "missed", "false": "made up", "both": "rightly empty"}


@dataclass(frozen=True)
class CaseScore:
    """One region of one case.

    Attributes:
        case: id.
        region: name.
        dice: in [0, 1].
        hd95_mm: 95th percentile Hausdorff distance.
        empty: ``none``, ``both``, ``missed`` or ``false``: which of target and prediction had no voxel.
        target_ml: true volume.
        predicted_ml: predicted volume.
    """

    case: str
    region: str
    dice: float
    hd95_mm: float
    empty: str
    target_ml: float
    predicted_ml: float


@dataclass(frozen=True)
class HeadScore:
    """One region of one case as one modality's own classifier head sees it; ``dice`` in [0, 1]."""

    case: str
    modality: str
    region: str
    dice: float


@dataclass(frozen=True)
class RegionSummary:
    """One region over all cases; ``dice_sd`` is the sample standard deviation, None for a single case."""

    region: str
    dice_mean: float
    dice_sd: float | None
    dice_median: float
    hd95_mean: float
    hd95_median: float
    cases: int
    empty: Mapping[str, int]


def region_report(scores: Sequence[CaseScore], head_scores: Sequence[HeadScore]) -> Scores:
    """Everything that is said about these cases."""
    summary = summarise(scores)
    tables = [Table("", SUMMARY_HEADER, tuple(map(_summary_row, summary)))]
    if head_scores:
        heads = head_summary(head_scores)
        regions = tuple(next(iter(heads.values())))
        rows = tuple((modality, *(f"{v:.3f}" for v in row.values())) for modality, row in heads.items())
        tables.append(Table("each modality's own head (Dice)", ("modality", *regions), rows))
    tables.append(Table("cases", CASES_HEADER, tuple(map(_case_row, scores)), detail=True))
    return Scores(
        headline={f"Dice {row.region}": row.dice_mean for row in summary},
        summary=tuple(map(asdict, summary)),
        cases=tuple(map(asdict, scores)),
        heads=tuple(map(asdict, head_scores)),
        tables=tuple(tables),
    )


def summarise(scores: Sequence[CaseScore]) -> list[RegionSummary]:
    """One row a region, then ``mean``: each case's average over regions, summarised in the same way."""
    regions = list(dict.fromkeys(score.region for score in scores))
    rows = [_summarise(name, [s for s in scores if s.region == name]) for name in regions]
    by_case: dict[str, list[CaseScore]] = {}
    for score in scores:
        by_case.setdefault(score.case, []).append(score)
    means = [
        CaseScore(
            case,
            "mean",
            statistics.fmean(s.dice for s in mine),
            statistics.fmean(s.hd95_mm for s in mine),
            "none",
            0.0,
            0.0,
        )
        for case, mine in by_case.items()
    ]
    return [*rows, _summarise("mean", means)]


def case_values(cases: Sequence[Record]) -> CaseValues:
    """Dice of each case by region and, as ``Dice mean``, averaged over regions.

    Example:
        >>> case_values([{"case": "a", "region": "WT", "dice": 0.5}, {"case": "a", "region": "ET", "dice": 0.0}])
        {'Dice WT': {'a': (0.5, 1.0)}, 'Dice ET': {'a': (0.0, 1.0)}, 'Dice mean': {'a': (0.25, 1.0)}}
    """
    values: CaseValues = {}
    of_case: dict[str, list[float]] = {}
    for row in cases:
        values.setdefault(f"Dice {row['region']}", {})[row["case"]] = (row["dice"], 1.0)
        of_case.setdefault(row["case"], []).append(row["dice"])
    values["Dice mean"] = {case: (statistics.fmean(dices), 1.0) for case, dices in of_case.items()}
    return values


def head_summary(head_scores: Sequence[HeadScore]) -> dict[str, dict[str, float]]:
    """Mean Dice by modality and region, and ``mean`` over regions."""
    regions = list(dict.fromkeys(score.region for score in head_scores))
    table: dict[str, dict[str, float]] = {}
    for modality in dict.fromkeys(score.modality for score in head_scores):
        mine = [s for s in head_scores if s.modality == modality]
        row = {r: statistics.fmean(s.dice for s in mine if s.region == r) for r in regions}
        table[modality] = {**row, "mean": statistics.fmean(row.values())}
    return table


SUMMARY_HEADER = ("region", "Dice mean ± sd", "HD95 mm mean (median)", "cases", "empty")
CASES_HEADER = ("case", "region", "Dice", "HD95 mm", "true ml", "predicted ml", "empty")


def _summarise(region: str, scores: Sequence[CaseScore]) -> RegionSummary:
    dices, distances = [s.dice for s in scores], [s.hd95_mm for s in scores]
    return RegionSummary(
        region=region,
        dice_mean=statistics.fmean(dices),
        dice_sd=statistics.stdev(dices) if len(dices) > 1 else None,
        dice_median=statistics.median(dices),
        hd95_mean=statistics.fmean(distances),
        hd95_median=statistics.median(distances),
        cases=len(scores),
        empty={kind: n for kind in EMPTY_KINDS if (n := sum(s.empty == kind for s in scores))},
    )


def _summary_row(row: RegionSummary) -> tuple[str, ...]:
    return (
        row.region,
        f"{row.dice_mean:.3f}" + ("" if row.dice_sd is None else f" ± {row.dice_sd:.3f}"),
        f"{row.hd95_mean:.1f} ({row.hd95_median:.1f})",
        str(row.cases),
        ", ".join(f"{n} {EMPTY_KINDS[kind]}" for kind, n in row.empty.items()) or "-",
    )


def _case_row(score: CaseScore) -> tuple[str, ...]:
    return (
        score.case,
        score.region,
        f"{score.dice:.3f}",
        f"{score.hd95_mm:.1f}",
        f"{score.target_ml:.1f}",
        f"{score.predicted_ml:.1f}",
        EMPTY_KINDS.get(score.empty, "-"),
    )
