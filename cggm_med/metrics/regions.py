"""The metrics of segmented regions in one table, and what follows from it: rows, summary, tables and definitions."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesions import lesion_metrics
from cggm_med.metrics.metric import Metric, value_of
from cggm_med.metrics.overlap import dice, empty_region, sensitivity, specificity, volume_error_ml
from cggm_med.metrics.surface_distance import hausdorff95, surface_dice
from cggm_med.results.aggregate import MEAN, STATISTICS, grouped, with_mean
from cggm_med.results.results import CaseValues, Record, Scores
from cggm_med.results.tables import Table, rounded

EMPTY_KINDS = {"missed": "missed", "false": "falsely predicted", "both": "rightly empty"}
FURTHER = "surfaces, voxels, volumes and lesions"
LOWER_IS_BETTER = " (lower is better)"

Column = tuple[str, Callable[[Record], str]]  # name, and the cell of a row
_NO_BRACES = str.maketrans("", "", "{}")


def region_metrics(empty_mm: float, tolerance_mm: float, lesion_rules: LesionRules) -> tuple[Metric, ...]:
    """Every metric that is computed for every region; only the first is quick enough for every validation.

    Args:
        empty_mm: HD95 of a region or a lesion that is missed or falsely predicted.
        tolerance_mm: see ``metrics.surface_distance.surface_dice``.
        lesion_rules: what a lesion is, and when it is found.
    """
    # All lesion-wise metrics of one region come from one computation.
    lesions = functools.lru_cache(maxsize=1)(functools.partial(lesion_metrics, rules=lesion_rules, penalty_mm=empty_mm))
    of_lesions = (
        f"lesion-wise: {lesion_rules.describe()}; a predicted part that touches no lesion is a false one; mean over "
        f"true lesions and false ones; Dice 0 and HD95 {empty_mm:g} mm for each missed or false one; this HD95 weights "
        "a surface by its area, as the script of BraTS 2023 does (github.com/rachitsaluja/BraTS-2023-Metrics)"
    )
    usual = functools.partial(Metric, table=FURTHER, cropped=True)
    overlap = functools.partial(usual, both_empty=1.0, one_empty=0.0)
    # A single case can lie far off, hence the median.
    distance = functools.partial(usual, unit="mm", better="lower", digits=1, statistics=("mean", "median"))
    count = functools.partial(usual, rule="", digits=0, statistics=())
    return (
        overlap(
            "Dice",
            "dice",
            lambda p, t, mm: dice(p, t),
            "2 |P and T| / (|P| + |T|) per case and region, then averaged over cases",
            table="",
            statistics=("mean", "sd", "median"),
            cell="{mean} ± {sd}",
        ),
        distance(
            "HD95",
            "hd95_mm",
            functools.partial(hausdorff95, empty_mm=empty_mm),
            "larger of the two directed 95th percentiles of surface distances, in mm; each voxel of a surface counts "
            "the same",
            both_empty=0.0,
            one_empty=empty_mm,
            table="",
            cell="{mean} ({median})",
        ),
        overlap(
            "NSD",
            "surface_dice",
            functools.partial(surface_dice, tolerance_mm=tolerance_mm),
            f"normalised surface Dice: share of the area of both surfaces that lies within {tolerance_mm:g} mm of the "
            "other (Nikolov et al., arXiv:1809.04430); 1 mm is a voxel of the BraTS grid",
        ),
        overlap(
            "sensitivity", "sensitivity", lambda p, t, mm: sensitivity(p, t), "share of the true voxels that were found"
        ),
        usual(
            "specificity",
            "specificity",
            lambda p, t, mm: specificity(p, t),
            "share of all other voxels of the volume that were left out; it is near 1 because most of a volume is "
            "empty",
            digits=4,
            cropped=False,
        ),
        usual(
            "volume error",
            "volume_error_ml",
            volume_error_ml,
            "predicted minus true volume per case; in the table of regions the mean, and in brackets the mean without "
            "signs",
            unit="ml",
            better="zero",
            digits=1,
            statistics=("mean", "mean_absolute"),
            cell="{mean} ({mean_absolute})",
        ),
        usual("lesion Dice", "lesion_dice", lambda *region: lesions(*region).dice, of_lesions),
        distance("lesion HD95", "lesion_hd95_mm", lambda *region: lesions(*region).hd95_mm, of_lesions),
        count("lesions", "lesions", lambda *region: lesions(*region).lesions),
        count("missed", "missed_lesions", lambda *region: lesions(*region).missed),
        count("false", "false_lesions", lambda *region: lesions(*region).false),
    )


# With the usual settings; names and keys are always the same.
METRICS = region_metrics(empty_mm=374.0, tolerance_mm=1.0, lesion_rules=LesionRules())
DICE = METRICS[0]
FACTS = ("case", "region", "empty", "target_ml", "predicted_ml")  # columns of a row that are not metrics


def score_region(
    case: str,
    region: str,
    prediction: NDArray[np.bool_],
    target: NDArray[np.bool_],
    spacing_mm: Sequence[float],
    metrics: Sequence[Metric] = METRICS,
) -> dict[str, Any]:
    """One region of one case as a row: every metric by its key, which mask has no voxel, and both volumes.

    Masks are ``(x, y, z)``, ``spacing_mm`` is the voxel size along these axes.

    Example:
        >>> mask = np.zeros((9, 9, 9), dtype=bool)
        >>> mask[2:6, 2:6, 2:6] = True
        >>> row = score_region("a", "WT", mask, mask, (1, 1, 1))
        >>> row["dice"], row["hd95_mm"], row["empty"], row["target_ml"], row["lesions"]
        (1.0, 0.0, 'none', 0.064, 1)
    """
    whole = torch.from_numpy(prediction), torch.from_numpy(target)
    box = union_box(prediction, target)
    near = torch.from_numpy(prediction[box]), torch.from_numpy(target[box])
    spacing = tuple(float(mm) for mm in spacing_mm)
    voxel_ml = math.prod(spacing) / 1000

    def values(of: Iterable[Metric]) -> dict[str, Any]:
        return {m.key: value_of(m, near if m.cropped else whole, spacing, case, region) for m in of}

    return {
        "case": case,
        "region": region,
        **values(m for m in metrics if not m.table),
        "empty": empty_region(*near),
        "target_ml": int(np.count_nonzero(target)) * voxel_ml,
        "predicted_ml": int(np.count_nonzero(prediction)) * voxel_ml,
        **values(m for m in metrics if m.table),
    }


def region_scores(rows: Sequence[Record], heads: Sequence[Record], metrics: Sequence[Metric] = METRICS) -> Scores:
    """Headline, summary and tables of all cases.

    Args:
        rows: see ``score_region``.
        heads: rows with ``case``, ``modality``, ``region`` and ``dice`` of each modality's own head.
        metrics: those that the rows lack are left out.
    """
    metrics = [m for m in metrics if m.key in rows[0]]
    summary = summarise_regions(rows, metrics)
    first = [m for m in metrics if not m.table]
    others = {m.table: [n for n in metrics if n.table == m.table] for m in metrics if m.table}
    case, region, cases = ((key, lambda row, key=key: str(row[key])) for key in ("case", "region", "cases"))
    spelled_out = [(f"{name} {m.cell.translate(_NO_BRACES)}", text) for m in first for name, text in _of_regions([m])]
    tables = [_table("", summary, [region, *spelled_out, cases, ("empty", lambda row: _counts(row["empty"]))])]
    tables += [_table(title, summary, [region, *_of_regions(group)]) for title, group in others.items()]
    if heads:
        means = head_summary(heads)
        lines = tuple((modality, *map(rounded, row.values())) for modality, row in means.items())
        tables.append(Table("each modality's own head (Dice)", ("modality", *next(iter(means.values()))), lines))
    if by_rater := rater_summary(rows):
        lines = tuple((rater, *map(rounded, row.values())) for rater, row in by_rater.items())
        tables.append(Table("against each reader (Dice)", ("reader", *next(iter(by_rater.values()))), lines))
    facts: list[Column] = [
        ("true ml", lambda row: rounded(row["target_ml"], 1)),
        ("predicted ml", lambda row: rounded(row["predicted_ml"], 1)),
        ("empty", lambda row: EMPTY_KINDS.get(row["empty"], "-")),
    ]
    tables.append(_table("cases", rows, [case, region, *_of_cases(first), *facts], detail=True))
    for title, group in others.items():
        tables.append(_table(f"cases: {title}", rows, [case, region, *_of_cases(group)], detail=True))
    return Scores(
        headline={f"{DICE.name} {row['region']}": row["dice_mean"] for row in summary},
        summary=tuple(summary),
        cases=tuple(rows),
        heads=tuple(heads),
        tables=tuple(tables),
    )


def by_presence(scores: Scores, present: Mapping[str, str]) -> Scores:
    """The scores with the modalities that each case has, and a table of Dice by them.

    Args:
        scores: of ``region_scores``.
        present: the modalities of each case, as one name.
    """
    cases = tuple({**row, "present": present[row["case"]]} for row in scores.cases)
    regions = [row["region"] for row in scores.summary]
    lines = []
    for (name,), group in grouped(cases, ["present"]).items():
        mean = {row["region"]: row["dice_mean"] for row in summarise_regions(group, [DICE])}
        count = len({row["case"] for row in group})
        lines.append((name, str(count), *(rounded(mean.get(region)) for region in regions)))
    table = Table("Dice by the modalities that a case has", ("present", "cases", *regions), tuple(lines))
    shown = [t for t in scores.tables if not t.detail]
    return replace(scores, cases=cases, tables=(*shown, table, *(t for t in scores.tables if t.detail)))


def summarise_regions(rows: Sequence[Record], metrics: Sequence[Metric] = METRICS) -> list[Record]:
    """One row per region, then ``mean``: each case's average over regions, summarised in the same way.

    ``dice_sd`` is the sample standard deviation, None for a single case. A metric that was not computed for every case
    is None, and so is the ``mean`` of a signed error.
    """
    averaged = [m.key for m in metrics if m.statistics and m.better != "zero"]
    groups = grouped(with_mean(rows, ["case"], "region", averaged), ["region"])

    def numbers(chosen: Iterable[Metric], group: Sequence[Record]) -> dict[str, float | None]:
        return {f"{m.stem}_{s}": STATISTICS[s]([row.get(m.key) for row in group]) for m in chosen for s in m.statistics}

    return [
        {
            "region": region,
            **numbers((m for m in metrics if not m.table), group),
            "cases": len(group),
            "empty": {k: n for k in EMPTY_KINDS if (n := sum(row.get("empty") == k for row in group))},
            **numbers((m for m in metrics if m.table), group),
        }
        for (region,), group in groups.items()
    ]


def head_summary(heads: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Mean Dice by modality and region, and ``mean`` over regions."""
    table: dict[str, dict[str, float]] = {}
    for (modality, region), rows in grouped(heads, ["modality", "region"]).items():
        table.setdefault(modality, {})[region] = statistics.fmean(row["dice"] for row in rows)
    return {modality: {**row, MEAN: statistics.fmean(row.values())} for modality, row in table.items()}


def rater_summary(rows: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Mean Dice of the prediction against each reader, by reader and region; empty where there are no readers.

    Example:
        >>> rows = [{"case": "a", "region": "WT", "raters": {"A": 0.5, "B": 1.0}}, {"case": "b", "region": "WT"}]
        >>> rater_summary(rows)
        {'A': {'WT': 0.5}, 'B': {'WT': 1.0}}
    """
    table: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for rater, value in row.get("raters", {}).items():
            table.setdefault(rater, {}).setdefault(row["region"], []).append(value)
    regions = dict.fromkeys(row["region"] for row in rows)
    means = {rater: {r: statistics.fmean(of[r]) for r in regions if r in of} for rater, of in table.items()}
    return {rater: row for rater, row in means.items() if set(row) == set(regions)}


def region_case_values(rows: Sequence[Record], metrics: Sequence[Metric] = (DICE,)) -> CaseValues:
    """Each metric of each case by region and, as ``Dice mean``, averaged over regions; signed ones as absolute values.

    Example:
        >>> region_case_values([{"case": "a", "region": "WT", "dice": 0.5}, {"case": "a", "region": "ET", "dice": 0.0}])
        {'Dice WT': {'a': (0.5, 1.0)}, 'Dice ET': {'a': (0.0, 1.0)}, 'Dice mean': {'a': (0.25, 1.0)}}
    """
    values: CaseValues = {}
    for metric in metrics:
        signed, note = metric.better == "zero", "" if metric.better == "higher" else LOWER_IS_BETTER
        name = f"absolute {metric.name}" if signed else metric.name
        sized = [{**row, metric.key: abs(row[metric.key]) if signed else row[metric.key]} for row in rows]
        for row in sized if signed else with_mean(sized, ["case"], "region", [metric.key]):
            values.setdefault(f"{name} {row['region']}{note}", {})[row["case"]] = (row[metric.key], 1.0)
    return values


def definitions(metrics: Sequence[Metric]) -> dict[str, str]:
    """The rule of each metric by its name; metrics that share a rule share an entry."""
    names: dict[str, list[str]] = {}
    for metric in metrics:
        if metric.rule:
            better = "nearest to 0 is best" if metric.better == "zero" else f"{metric.better} is better"
            source = f"; {better} (package {metric.package})" if metric.package else ""
            names.setdefault(metric.rule + source, []).append(metric.name)
    return {", ".join(group): rule for rule, group in names.items()}


def empty_rule(metrics: Sequence[Metric]) -> str:
    """What an empty region counts as.

    Example:
        >>> empty_rule([DICE])
        'nothing there and nothing predicted: Dice 1; missed or falsely predicted: Dice 0'
    """
    both = [(m.name, f"{m.both_empty:g} {m.unit if m.both_empty else ''}") for m in metrics if m.both_empty is not None]
    one = [(m.name, f"{m.one_empty:g} {m.unit}") for m in metrics if m.one_empty is not None]
    return f"nothing there and nothing predicted: {_by_value(both)}; missed or falsely predicted: {_by_value(one)}"


def _by_value(values: Iterable[tuple[str, str]]) -> str:
    """Names and what they are worth, such as ``Dice, NSD and sensitivity 0, HD95 374 mm``."""
    names: dict[str, list[str]] = {}
    for name, value in values:
        names.setdefault(value.rstrip(), []).append(name)
    return ", ".join(f"{' and '.join([*([', '.join(n[:-1])] if n[:-1] else []), n[-1]])} {v}" for v, n in names.items())


def _table(title: str, rows: Sequence[Record], columns: Sequence[Column], detail: bool = False) -> Table:
    lines = tuple(tuple(text(row) for _, text in columns) for row in rows)
    return Table(title, tuple(name for name, _ in columns), lines, detail)


def _of_cases(metrics: Iterable[Metric]) -> list[Column]:
    return [(m.column, functools.partial(_value, m)) for m in metrics]


def _of_regions(metrics: Iterable[Metric]) -> list[Column]:
    return [(m.column, functools.partial(_statistics, m)) for m in metrics if m.statistics]


def _value(metric: Metric, row: Record) -> str:
    return rounded(row[metric.key], metric.digits)


def _statistics(metric: Metric, row: Record) -> str:
    """The statistics of a metric as text; the first one alone where another is not defined."""
    values = {name: row[f"{metric.stem}_{name}"] for name in metric.statistics}
    texts = {name: rounded(value, metric.digits) for name, value in values.items()}
    return texts[metric.statistics[0]] if None in values.values() else metric.cell.format(**texts)


def _counts(empty: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {EMPTY_KINDS[kind]}" for kind, n in empty.items()) or "-"


def union_box(prediction: NDArray[np.bool_], target: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds both masks; all of the volume where both are empty.

    Metrics computed in it equal those of the whole volume, without any margin. Surfaces: the outside of the array
    counts as outside of the mask, so a voxel at its border is on the surface wherever the array ends. Lesions: moving
    every voxel of a dilated mask to the nearest one of the box leaves it in the dilated mask, since it comes no farther
    from its origin along any axis, and leaves neighbours neighbours; so what is connected outside is connected inside.
    """
    boxes: list[tuple[slice, ...]] = find_objects((prediction | target).view(np.uint8))
    return boxes[0] if boxes else (slice(None),) * prediction.ndim
