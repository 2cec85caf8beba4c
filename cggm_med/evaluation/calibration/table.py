"""Rows of calibration scores: before and after a temperature, as records and as cells of a table."""

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
    """What was fitted, or why nothing was.

    Attributes:
        value: of the run; None if there is none.
        of_region: fitted to one region alone, by region; empty for classes.
        rule: how it came about, for the report.
    """

    value: float | None
    of_region: Mapping[str, float]
    rule: str


def stages(temperature: Temperature) -> list[tuple[str, float]]:
    """Names and temperatures of what is scored."""
    after = [] if temperature.value is None else [(AFTER, temperature.value)]
    return [(BEFORE, 1.0), *after]


def record(calibration: Calibration | None) -> Record:
    """Scores with their bins; None for each where there is nothing to score."""
    if calibration is None:
        return {**dict.fromkeys(METRICS), "count": 0, "bins": []}
    return {**asdict(calibration), "bins": [asdict(b) for b in calibration.bins]}


def headline(rows: Sequence[Record], temperature: Temperature) -> dict[str, float | None]:
    """What stands for all of it: the error at each stage, and the temperature."""
    found: dict[str, float | None] = {f"ECE {row['stage']}": row["ece"] for row in rows}
    return {**found, "temperature": temperature.value}


def cells_of(row: Record) -> tuple[str, ...]:
    """Temperature, scores and count; a temperature of 1 leaves probabilities as they are."""
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
