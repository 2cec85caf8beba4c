"""The scores of segmented regions: one row a case and region, and what all cases say together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from cggm_med.results.results import CaseValues, Record, Scores
from cggm_med.results.tables import Table, rounded

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
        surface_dice: normalised surface Dice, in [0, 1]; like all below None where it was not computed.
        sensitivity: in [0, 1].
        specificity: in [0, 1].
        volume_error_ml: predicted minus true volume.
        lesion_dice: lesion-wise Dice of BraTS 2023, in [0, 1].
        lesion_hd95_mm: lesion-wise HD95 of BraTS 2023.
        lesions: true lesions that count.
        missed_lesions: those of them that were not found.
        false_lesions: predicted ones that touch no true one.
    """

    case: str
    region: str
    dice: float
    hd95_mm: float
    empty: str
    target_ml: float
    predicted_ml: float
    surface_dice: float | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    volume_error_ml: float | None = None
    lesion_dice: float | None = None
    lesion_hd95_mm: float | None = None
    lesions: int | None = None
    missed_lesions: int | None = None
    false_lesions: int | None = None


@dataclass(frozen=True)
class HeadScore:
    """One region of one case as one modality's own classifier head sees it; ``dice`` in [0, 1]."""

    case: str
    modality: str
    region: str
    dice: float


@dataclass(frozen=True)
class RegionSummary:
    """One region over all cases; ``dice_sd`` is the sample standard deviation, None for a single case.

    What was not computed for every case is None. Volume errors are signed, in ml, and so none for ``mean``: regions lie
    inside one another.
    """

    region: str
    dice_mean: float
    dice_sd: float | None
    dice_median: float
    hd95_mean: float
    hd95_median: float
    cases: int
    empty: Mapping[str, int]
    surface_dice_mean: float | None = None
    sensitivity_mean: float | None = None
    specificity_mean: float | None = None
    volume_error_ml_mean: float | None = None
    volume_error_ml_mean_absolute: float | None = None
    lesion_dice_mean: float | None = None
    lesion_hd95_mean: float | None = None
    lesion_hd95_median: float | None = None


def region_report(scores: Sequence[CaseScore], head_scores: Sequence[HeadScore]) -> Scores:
    """Everything that is said about these cases."""
    summary = summarise(scores)
    tables = [Table("", SUMMARY_HEADER, tuple(map(_summary_row, summary)))]
    further = [score for score in scores if score.surface_dice is not None]
    if further:
        tables.append(Table(FURTHER_TITLE, FURTHER_HEADER, tuple(map(_further_row, summary))))
    if head_scores:
        heads = head_summary(head_scores)
        regions = tuple(next(iter(heads.values())))
        rows = tuple((modality, *(f"{v:.3f}" for v in row.values())) for modality, row in heads.items())
        tables.append(Table("each modality's own head (Dice)", ("modality", *regions), rows))
    tables.append(Table("cases", CASES_HEADER, tuple(map(_case_row, scores)), detail=True))
    if further:
        rows = tuple(map(_further_case_row, further))
        tables.append(Table(f"cases: {FURTHER_TITLE}", FURTHER_CASES_HEADER, rows, detail=True))
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
    means = [_mean_over_regions(case, mine) for case, mine in by_case.items()]
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
FURTHER_TITLE = "surfaces, voxels, volumes and lesions"
FURTHER_HEADER = (
    "region",
    "NSD",
    "sensitivity",
    "specificity",
    "volume error ml",
    "lesion Dice",
    "lesion HD95 mm",
)
CASES_HEADER = ("case", "region", "Dice", "HD95 mm", "true ml", "predicted ml", "empty")
FURTHER_CASES_HEADER = ("case", *FURTHER_HEADER, "lesions", "missed", "false")


def _mean_over_regions(case: str, scores: Sequence[CaseScore]) -> CaseScore:
    return CaseScore(
        case=case,
        region="mean",
        dice=statistics.fmean(s.dice for s in scores),
        hd95_mm=statistics.fmean(s.hd95_mm for s in scores),
        empty="none",
        target_ml=0.0,
        predicted_ml=0.0,
        surface_dice=_mean([s.surface_dice for s in scores]),
        sensitivity=_mean([s.sensitivity for s in scores]),
        specificity=_mean([s.specificity for s in scores]),
        lesion_dice=_mean([s.lesion_dice for s in scores]),
        lesion_hd95_mm=_mean([s.lesion_hd95_mm for s in scores]),
    )


def _summarise(region: str, scores: Sequence[CaseScore]) -> RegionSummary:
    dices, distances = [s.dice for s in scores], [s.hd95_mm for s in scores]
    errors, lesion_distances = [s.volume_error_ml for s in scores], [s.lesion_hd95_mm for s in scores]
    return RegionSummary(
        region=region,
        dice_mean=statistics.fmean(dices),
        dice_sd=statistics.stdev(dices) if len(dices) > 1 else None,
        dice_median=statistics.median(dices),
        hd95_mean=statistics.fmean(distances),
        hd95_median=statistics.median(distances),
        cases=len(scores),
        empty={kind: n for kind in EMPTY_KINDS if (n := sum(s.empty == kind for s in scores))},
        surface_dice_mean=_mean([s.surface_dice for s in scores]),
        sensitivity_mean=_mean([s.sensitivity for s in scores]),
        specificity_mean=_mean([s.specificity for s in scores]),
        volume_error_ml_mean=_mean(errors),
        volume_error_ml_mean_absolute=_mean([None if e is None else abs(e) for e in errors]),
        lesion_dice_mean=_mean([s.lesion_dice for s in scores]),
        lesion_hd95_mean=_mean(lesion_distances),
        lesion_hd95_median=_over_all(statistics.median, lesion_distances),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    return _over_all(statistics.fmean, values)


def _over_all(reduce: Callable[[list[float]], float], values: Sequence[float | None]) -> float | None:
    """None unless every value is known, since leaving some out would change what the others say."""
    known = [value for value in values if value is not None]
    return reduce(known) if len(known) == len(values) else None


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


def _further_row(row: RegionSummary) -> tuple[str, ...]:
    error = row.volume_error_ml_mean
    return (
        row.region,
        rounded(row.surface_dice_mean),
        rounded(row.sensitivity_mean),
        rounded(row.specificity_mean, 4),
        "-" if error is None else f"{rounded(error, 1)} ({rounded(row.volume_error_ml_mean_absolute, 1)})",
        rounded(row.lesion_dice_mean),
        rounded(row.lesion_hd95_mean, 1),
    )


def _further_case_row(score: CaseScore) -> tuple[str, ...]:
    return (
        score.case,
        score.region,
        rounded(score.surface_dice),
        rounded(score.sensitivity),
        rounded(score.specificity, 4),
        rounded(score.volume_error_ml, 1),
        rounded(score.lesion_dice),
        rounded(score.lesion_hd95_mm, 1),
        *map(str, (score.lesions, score.missed_lesions, score.false_lesions)),
    )
