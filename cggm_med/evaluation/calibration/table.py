"""Rows of calibration errors before and after temperature scaling, as records and as table cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cggm_med.evaluation.calibration.scores import Calibration

METRICS = {"ece": "ECE", "mce": "MCE", "brier": "Brier", "nll": "NLL"}
BEFORE, AFTER = "before", "after"

Record = dict[str, Any]


@dataclass(frozen=True)
class Temperature:
    """The fitted temperature, or why there is none.

    Attributes:
        value: for the whole run; None if nothing was fitted.
        of_region: by region, fitted to it alone; empty for classes.
        rule: how it was fitted, for the report.
    """

    value: float | None
    of_region: Mapping[str, float]
    rule: str


def stages(temperature: Temperature) -> list[tuple[str, float]]:
    """Names and temperatures of the scored stages."""
    after = [] if temperature.value is None else [(AFTER, temperature.value)]
    return [(BEFORE, 1.0), *after]


def record(calibration: Calibration | None) -> Record:
    """Errors with their bins; None for each where there is nothing to score."""
    if calibration is None:
        return {**dict.fromkeys(METRICS), "count": 0, "bins": []}
    return {**asdict(calibration), "bins": [asdict(b) for b in calibration.bins]}


def headline(rows: Sequence[Record], temperature: Temperature) -> dict[str, float | None]:
    """The expected calibration error at each stage, and the temperature."""
    errors: dict[str, float | None] = {f"ECE {row['stage']}": row["ece"] for row in rows}
    return {**errors, "temperature": temperature.value}


def cells_of(row: Record) -> tuple[str, ...]:
    """Temperature, errors and count; a temperature of 1 leaves probabilities as they are."""
    numbers = ("-" if row[name] is None else f"{row[name]:.4f}" for name in METRICS)
    return f"{row['temperature']:.3f}", *numbers, _short(row["count"])


def _short(count: int) -> str:
    """A count in three digits, since millions of voxels would fill the table."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= 10 * size:
            return f"{count / size:.0f}{unit}"
        if count >= size:
            return f"{count / size:.2f}{unit}"
    return str(count)
