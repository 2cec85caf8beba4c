"""Two evaluations of the same cases: mean difference, its interval, and a paired test over the cases."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from cggm_med.comparison.statistics import bootstrap_interval, holm, paired_p_value
from cggm_med.comparison.tables import p_text
from cggm_med.errors import DataError, first_of
from cggm_med.metrics.metric import Metric
from cggm_med.metrics.regions import region_case_values
from cggm_med.results.results import Record
from cggm_med.results.tables import Table, rounded

MIN_CASES = 2
RULE = (
    "both evaluations scored the same labels; difference of the means over the cases that both scored; 95 % interval: "
    "bootstrap over these cases; p: paired t-test over them, and corrected for the number of rows (Holm 1979)"
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
        low, high: 95 % interval of the difference.
        p: of a paired t-test; None where all differences are the same but not 0.
        p_holm: corrected for the number of rows.
    """

    metric: str
    cases: int
    mean: float
    other: float
    difference: float
    low: float
    high: float
    p: float | None
    p_holm: float | None


def paired_rows(rows: Sequence[Record], others: Sequence[Record], metrics: Sequence[Metric]) -> list[PairedRow]:
    """The comparison of two evaluations, from their rows of one case and region each.

    Args:
        rows: of the first evaluation, see ``metrics.regions.score_region``.
        others: of the second.
        metrics: to compare.

    Raises:
        DataError: if they share fewer than two cases, or a label that they scored differs.

    Example:
        >>> from cggm_med.metrics.regions import DICE
        >>> here = [{"case": c, "region": "WT", "dice": d, "target_ml": 1.0} for c, d in (("a", 0.5), ("b", 0.75))]
        >>> there = [{**row, "dice": 0.5} for row in here]
        >>> [(row.metric, row.difference, row.low, row.high) for row in paired_rows(here, there, [DICE])][0]
        ('Dice WT', 0.125, 0.0, 0.25)
    """
    volumes = {(row["case"], row["region"]): row["target_ml"] for row in others}
    shared = {row["case"] for row in rows} & {case for case, _ in volumes}
    if len(shared) < MIN_CASES:
        raise DataError(f"the two evaluations share {len(shared)} cases; a paired test needs at least {MIN_CASES}")
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
    compared = []
    for metric in (name for name in here if name in there):
        values = {case: (value, there[metric][case][0]) for case, (value, _) in here[metric].items()}
        means = [statistics.fmean(column) for column in zip(*values.values(), strict=True)]
        differences = [one - other for one, other in values.values()]
        interval = bootstrap_interval(np.array([differences]), np.ones((1, len(differences))))
        test = paired_p_value(differences)
        compared.append(
            PairedRow(metric, len(values), means[0], means[1], statistics.fmean(differences), *interval, test, None)
        )
    corrected = holm({row.metric: row.p for row in compared})
    return [PairedRow(**{**asdict(row), "p_holm": corrected[row.metric]}) for row in compared]


def paired_table(rows: Sequence[PairedRow], other: str) -> Table:
    """The comparison for people; ``other`` names the second evaluation."""
    lines = tuple(
        (
            row.metric,
            str(row.cases),
            rounded(row.mean),
            rounded(row.other),
            f"{row.difference:+.3f}",
            f"[{row.low:+.3f}, {row.high:+.3f}]",
            "-" if row.p is None else p_text(row.p),
            "-" if row.p_holm is None else p_text(row.p_holm),
        )
        for row in rows
    )
    header = ("metric", "cases", "these masks", other, "difference", "95 % interval", "p", "p (Holm)")
    return Table(f"against {other}", header, lines)
