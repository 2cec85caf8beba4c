"""External validation of scored cases: agreement of volumes, scores with intervals, and strata; as rows and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cggm_med.evaluation.external.agreement import MIN_PATIENTS, Agreement, Estimate, agreement, bootstrap_means
from cggm_med.evaluation.external.strata import Strata, sizes
from cggm_med.results.aggregate import grouped
from cggm_med.results.results import Record
from cggm_med.results.tables import Table, rounded

ALL = "all"
SIZE = "true volume"
MAX_SHOWN = 30  # rows of strata in a terminal; the files have all
RULES = {
    "agreement of volumes": "Bland-Altman (1999): bias is the mean of predicted minus true mL, limits of agreement are "
    "bias ± 1.96 sample standard deviations. ICC(2,1) (Shrout and Fleiss 1979): two-way random effects, absolute "
    "agreement, single measurement. Intervals at 95 %: those of Bland and Altman and of McGraw and Wong (1996) where "
    "every patient has one case, else by drawing patients again",
    "intervals of scores": "95 %, bootstrap over whole patients, 10,000 draws, percentiles as far out as those of t "
    f"(Hesterberg 2015); none below {MIN_PATIENTS} patients",
    "strata": "by the columns that were given, and by the true volume of the region: empty, or a third of the others "
    "each. They describe: nothing is tested, and a difference of strata may come from another one",
}


@dataclass(frozen=True)
class Validation:
    """What an external validation found.

    Attributes:
        agreement: a row for each region.
        strata: a row for each stratum and region; the first of a region is about all cases.
        volumes: predicted and true mL of each case, by region.
        found: agreement by region.
    """

    agreement: tuple[Record, ...]
    strata: tuple[Record, ...]
    volumes: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    found: Mapping[str, Agreement]

    @property
    def tables(self) -> tuple[Table, ...]:
        """For people: agreement, and scores by stratum."""
        header = ("region", "cases", "bias mL", "lower limit", "upper limit", "ICC(2,1)")
        rows = tuple(
            (name, str(of.cases), *(_said(x, 2, sign=True) for x in (of.bias, of.low, of.high)), _said(of.icc, 3))
            for name, of in self.found.items()
        )
        strata = tuple(
            (
                *(row["region"], row["column"], row["stratum"], str(row["patients"]), str(row["cases"])),
                _said(_estimate(row, "dice"), 3),
                _said(_estimate(row, "hd95_mm"), 1),
                _said(_estimate(row, "volume_error_ml"), 2, sign=True),
            )
            for row in self.strata
        )
        names = ("region", "by", "stratum", "patients", "cases", "Dice", "HD95 mm", "volume error mL")
        return (
            Table("agreement of predicted and true volumes [95 % interval]", header, rows),
            Table("means by stratum [95 % interval over patients]", names, strata, detail=len(strata) > MAX_SHOWN),
        )


def validate(rows: Sequence[Record], patients: Mapping[str, str], strata: Strata) -> Validation:
    """Agreement and strata of the scores of cases.

    Args:
        rows: one per case and region, with ``dice``, ``hd95_mm``, ``target_ml`` and ``predicted_ml``.
        patients: of each case; one that is not there is a patient of its own.
        strata: see ``read_strata``; may be empty.
    """
    found, volumes, by_stratum = dict[str, Agreement](), {}, list[Record]()
    for (region,), of_region in grouped(rows, ["region"]).items():
        predicted, true = ([float(row[key]) for row in of_region] for key in ("predicted_ml", "target_ml"))
        names = [patients.get(row["case"], row["case"]) for row in of_region]
        volumes[region] = predicted, true
        found[region] = agreement(predicted, true, names)
        divisions = {ALL: dict.fromkeys((row["case"] for row in of_region), ALL), SIZE: sizes(of_region), **strata}
        for column, value_of in divisions.items():
            parts: dict[str, list[Record]] = {}
            for row in sorted(of_region, key=lambda row: row["target_ml"]) if column == SIZE else of_region:
                parts.setdefault(value_of[row["case"]], []).append(row)
            by_stratum += [_row(region, column, name, part, patients) for name, part in parts.items()]
    return Validation(
        tuple({"region": region, "cases": of.cases, **_plain(of)} for region, of in found.items()),
        tuple(by_stratum),
        volumes,
        found,
    )


def _row(region: str, column: str, stratum: str, rows: Sequence[Record], patients: Mapping[str, str]) -> Record:
    names = [patients.get(row["case"], row["case"]) for row in rows]
    values = np.array([[row["dice"], row["hd95_mm"], row["predicted_ml"] - row["target_ml"]] for row in rows], float)
    estimates = bootstrap_means(values, names)
    row: dict[str, Any] = {"region": region, "column": column, "stratum": stratum}
    row |= {"patients": len(set(names)), "cases": len(rows)}
    for key, estimate in zip(("dice", "hd95_mm", "volume_error_ml"), estimates, strict=True):
        row |= _ends(key, estimate)
    return row


def _plain(of: Agreement) -> Record:
    named = {"bias_ml": of.bias, "lower_limit_ml": of.low, "upper_limit_ml": of.high, "icc": of.icc}
    return {key: value for name, estimate in named.items() for key, value in _ends(name, estimate).items()}


def _ends(key: str, estimate: Estimate) -> dict[str, float | None]:
    low, high = estimate.interval or (None, None)
    return {key: estimate.value, f"{key}_low": low, f"{key}_high": high}


def _estimate(row: Record, key: str) -> Estimate:
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return Estimate(row[key], None if low is None else (low, high))


def _said(estimate: Estimate, digits: int, *, sign: bool = False) -> str:
    def text(value: float | None) -> str:
        shown = rounded(value, digits)
        return f"+{shown}" if sign and value is not None and value > 0 else shown

    if estimate.interval is None:
        return text(estimate.value)
    return f"{text(estimate.value)} [{', '.join(map(text, estimate.interval))}]"
