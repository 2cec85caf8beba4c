"""Two evaluations of the same cases: mean difference, its interval, and a paired test over the patients."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cggm_med.comparison.max_t import max_t
from cggm_med.comparison.statistics import t_estimate
from cggm_med.errors import DataError, counted, first_of
from cggm_med.metrics.metric import Metric
from cggm_med.metrics.regions import region_case_values
from cggm_med.results.results import Record
from cggm_med.results.tables import Table, p_text, rounded, signed

MIN_CASES = 2
RULE = (
    "both evaluations scored the same labels; difference of the means over the cases that both scored; 95 % interval "
    "and p: paired t-test over the patients, each with all of its cases; p (max-t): corrected for the number of rows, "
    "by drawing the sign of each patient's differences by lot (Westfall and Young 1993)"
)


@dataclass(frozen=True)
class PairedRow:
    """One metric of one region in two evaluations.

    Attributes:
        metric: with its region.
        cases: that both scored.
        mean: of the first evaluation over these cases.
        other: of the second.
        difference: the first minus the second.
        low, high: 95 % interval of the difference; None as for p.
        p: of a paired t-test; None for one patient, and where all differences are the same but not 0.
        p_max_t: corrected for the number of rows.
    """

    metric: str
    cases: int
    mean: float
    other: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_max_t: float | None


def paired_rows(
    rows: Sequence[Record], others: Sequence[Record], metrics: Sequence[Metric], groups: Mapping[str, str]
) -> list[PairedRow]:
    """The comparison of two evaluations, from their rows of one case and region each.

    Args:
        rows: of the first evaluation, see ``metrics.regions.score_region``.
        others: of the second.
        metrics: to compare.
        groups: the patient of each case; a case without one is a patient of its own.

    Raises:
        DataError: if they share fewer than two cases, or a label that they scored differs.

    Example:
        >>> from cggm_med.metrics.regions import DICE
        >>> here = [{"case": c, "region": "WT", "dice": d, "target_ml": 1.0} for c, d in (("a", 0.5), ("b", 0.75))]
        >>> there = [{**row, "dice": 0.5} for row in here]
        >>> [(row.metric, row.cases, row.difference) for row in paired_rows(here, there, [DICE], {})][0]
        ('Dice WT', 2, 0.125)
    """
    volumes = {(row["case"], row["region"]): row["target_ml"] for row in others}
    shared = {row["case"] for row in rows} & {case for case, _ in volumes}
    if len(shared) < MIN_CASES:
        raise DataError(
            f"the two evaluations share {counted(len(shared), 'case')}, and a paired test needs at least {MIN_CASES}; "
            "score both on the same data"
        )
    differing = [
        row["case"]
        for row in rows
        if row["case"] in shared
        and not np.isclose(row["target_ml"], volumes.get((row["case"], row["region"]), np.nan), rtol=1e-6)
    ]
    if differing:
        names = first_of(list(dict.fromkeys(differing)))
        raise DataError(f"the two evaluations scored other labels of {names}; score both on the same data")
    here, there = (region_case_values([r for r in of if r["case"] in shared], metrics) for of in (rows, others))
    found = [name for name in here if name in there]
    patients = sorted({groups.get(case, case) for case in shared})
    sums, counts = np.zeros((2, len(patients), len(found)))
    means = []
    for column, metric in enumerate(found):
        values = {case: (value, there[metric][case][0]) for case, (value, _) in here[metric].items()}
        means.append([statistics.fmean(of) for of in zip(*values.values(), strict=True)])
        for case, (one, other) in values.items():
            place = patients.index(groups.get(case, case)), column
            sums[place] += one - other
            counts[place] += 1
    corrected = max_t(sums, counts).p.tolist()
    compared = []
    for column, metric in enumerate(found):
        estimate = t_estimate(sums[:, column], counts[:, column])
        low, high = (None, None) if estimate is None else estimate.interval()
        test, test_max_t = (None, None) if estimate is None else (estimate.p, corrected[column])
        (mean, other), difference = means[column], float(sums[:, column].sum() / counts[:, column].sum())
        compared.append(PairedRow(metric, len(here[metric]), mean, other, difference, low, high, test, test_max_t))
    return compared


def paired_table(rows: Sequence[PairedRow], other: str) -> Table:
    """The comparison for people; ``other`` names the second evaluation."""
    lines = tuple(
        (
            row.metric,
            str(row.cases),
            rounded(row.mean),
            rounded(row.other),
            signed(row.difference),
            "-" if row.low is None else f"[{signed(row.low)}, {signed(row.high)}]",
            p_text(row.p),
            p_text(row.p_max_t),
        )
        for row in rows
    )
    header = ("metric", "cases", "these masks", other, "difference", "95 % interval", "p", "p (max-t)")
    return Table(f"against {other}", header, lines)
