"""Tables that can be read aloud, printed and sorted, and the same rows as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cggm_med.metrics.regions import METRICS

DASH = "–"
UNITS = ("mm", "ml")


@dataclass(frozen=True)
class Cell:
    """A cell whose order, or kind, is not that of its text.

    Attributes:
        content: what is shown.
        value: what the column is sorted by; None comes last.
        marked: stands out.
    """

    content: str
    value: float | str | None = None
    marked: bool = False


@dataclass(frozen=True)
class HtmlTable:
    """A table of the page, made by ``table``, whose arguments explain it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    label: str
    sortable: bool
    sorted_by: int | None
    marked_rows: Sequence[int]

    @property
    def numeric(self) -> set[int]:
        """The columns of numbers, in which everything is aligned as numbers are, dashes and name included."""
        return {i for row in self.rows for i, cell in enumerate(row) if i and isinstance(cell.value, (int, float))}


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    label: str = "",
    sortable: bool = False,
    sorted_by: int | None = None,
    marked_rows: Sequence[int] = (),
) -> HtmlTable:
    """An HTML table whose first column names each row.

    Args:
        caption: above it.
        header: names of the columns.
        rows: cells: a ``Cell``, or plain values, of which numbers are rounded.
        label: for those who cannot see it; default: the caption.
        sortable: by a click on a column's name.
        sorted_by: column by which the rows are in ascending order already.
        marked_rows: numbers of the rows that stand out.
    """
    given = [list(row) for row in rows]
    digits = [_decimals([x for x in column if isinstance(x, float)]) for column in zip(*given, strict=True)]
    grid = [[_as_cell(x, n) for x, n in zip(row, digits, strict=True)] for row in given]
    return HtmlTable(caption, header, grid, label or caption or "table", sortable, sorted_by, marked_rows)


def _as_cell(given: Any, decimals: int) -> Cell:
    if isinstance(given, Cell):
        return given
    if isinstance(given, float) and (abs(given) >= 0.001 or given == 0):
        return Cell(f"{given:.{decimals}f}", given)
    return Cell(shown(given), given if isinstance(given, (int, float)) and not isinstance(given, bool) else None)


def _decimals(numbers: Sequence[float]) -> int:
    """As many for all numbers of a column, by the largest of them."""
    largest = max(map(abs, numbers), default=0.0)
    return 3 if largest < 10 else 1 if largest < 10_000 else 0


def shown(value: Any) -> str:
    """A value as text.

    Example:
        >>> [shown(x) for x in (0.12345, 12.3456, 12345.6, 1e-5, 3, None, True, "t1", ["a", 1])]
        ['0.123', '12.3', '12346', '1e-05', '3', '–', 'yes', 't1', 'a, 1']
    """
    if value is None or value == "":
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:.3g}" if 0 < size < 0.001 else f"{value:.{_decimals([value])}f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(x)}" for key, x in value.items()) or DASH
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    return str(value)


def readable(key: str) -> str:
    """The name of a column from the key of a record.

    Example:
        >>> readable("hd95_mm"), readable("target_ml"), readable("true")
        ('HD95 [mm]', 'true [ml]', 'true')
    """
    stem, _, unit = key.rpartition("_")
    name = stem if unit in UNITS and stem else key
    name = NAMES.get(name, name).replace("_", " ")
    return f"{name} [{unit}]" if unit in UNITS and stem else name


# Metrics by their key without the unit; those without statistics are called by their key, "missed lesions", on a page.
NAMES = {m.key.removesuffix(f"_{m.unit}"): m.name for m in METRICS if m.statistics} | {"target": "true"}
