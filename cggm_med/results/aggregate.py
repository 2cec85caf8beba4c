"""Statistics of an evaluation's rows: mean, standard deviation, median and number of cases by group."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cggm_med.results.results import Record

Values = Sequence[float | None]
Statistic = Callable[[Values], float | None]

MEAN = "mean"


def mean(values: Values) -> float | None:
    """The mean; None if there is no value or one is unknown, since leaving it out would silently change the mean.

    Example:
        >>> mean([1.0, 2.0]), mean([1.0, None]), mean([])
        (1.5, None, None)
    """
    return _of_all(statistics.fmean, values)


def mean_of(values: Mapping[str, tuple[float, float]]) -> float:
    """The mean of a metric from each case's sum, and of how many values it is the sum.

    Example:
        >>> mean_of({"a": (1.0, 1.0), "b": (1.0, 3.0)})
        0.5
    """
    return sum(value for value, _ in values.values()) / sum(count for _, count in values.values())


def median(values: Values) -> float | None:
    """The median; None as for the mean."""
    return _of_all(statistics.median, values)


def sd(values: Values) -> float | None:
    """The sample standard deviation; None as for the mean, and for a single value.

    Example:
        >>> sd([1.0, 3.0]), sd([1.0])
        (1.4142135623730951, None)
    """
    return _of_all(statistics.stdev, values) if len(values) > 1 else None


def mean_absolute(values: Values) -> float | None:
    """The mean without signs; None as for the mean."""
    return mean([None if value is None else abs(value) for value in values])


STATISTICS: Mapping[str, Statistic] = {"mean": mean, "sd": sd, "median": median, "mean_absolute": mean_absolute}


def grouped(rows: Iterable[Record], by: Sequence[str]) -> dict[tuple[Any, ...], list[Record]]:
    """Rows by the values of some columns, in the order in which these first occur."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    return groups


def with_mean(rows: Sequence[Record], by: Sequence[str], over: str, values: Sequence[str]) -> list[Record]:
    """The same rows by group, and after each group a row of its means.

    Args:
        rows: see ``grouped``.
        by: columns that tell groups apart.
        over: column that the mean is taken over; the added row has ``mean`` there.
        values: columns of numbers; their mean is None where it is not defined.

    Example:
        >>> rows = [{"case": "a", "region": "WT", "dice": 0.5}, {"case": "a", "region": "ET", "dice": 0.0}]
        >>> with_mean(rows, ["case"], "region", ["dice"])[-1]
        {'case': 'a', 'region': 'mean', 'dice': 0.25}
    """
    extended: list[Record] = []
    for names, group in grouped(rows, by).items():
        means = {key: mean([row[key] for row in group]) for key in values}
        extended += [*group, {**dict(zip(by, names, strict=True)), over: MEAN, **means}]
    return extended


def aggregate(
    rows: Sequence[Record], by: Sequence[str], value: str, names: Sequence[str] = ("mean", "sd")
) -> list[Record]:
    """One row per group: its names, the statistics of one column, and the number of cases.

    Args:
        rows: one per case.
        by: columns that tell groups apart.
        value: column of numbers.
        names: which of ``STATISTICS``.

    Example:
        >>> aggregate([{"region": "WT", "dice": 0.5}, {"region": "WT", "dice": 1.0}], ["region"], "dice", ["mean"])
        [{'region': 'WT', 'dice_mean': 0.75, 'cases': 2}]
    """
    return [
        {
            **dict(zip(by, key, strict=True)),
            **{f"{value}_{name}": STATISTICS[name]([row[value] for row in group]) for name in names},
            "cases": len(group),
        }
        for key, group in grouped(rows, by).items()
    ]


def _of_all(reduce: Callable[[list[float]], float], values: Values) -> float | None:
    known = [value for value in values if value is not None]
    return reduce(known) if known and len(known) == len(values) else None
