"""Tables of a page: accessible, printable and sortable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cggm_med.metrics.regions import METRICS

DASH = "–"
UNITS = ("mm", "ml")


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        content: its text.
        value: that the column is sorted by; None comes last.
        marked: whether it is highlighted.
        address: of what it links to.
    """

    content: str
    value: float | str | None = None
    marked: bool = False
    address: str | None = None


@dataclass(frozen=True)
class HtmlTable:
    """A table of the page; see ``html_table``, which makes it."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    label: str
    sortable: bool
    sorted_by: int | None
    marked_rows: Sequence[int]

    @property
    def numeric(self) -> set[int]:
        """Columns of numbers, which are right-aligned with their headers and dashes."""
        return {i for row in self.rows for i, cell in enumerate(row) if i and isinstance(cell.value, (int, float))}


def html_table(
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
        rows: of cells or plain values, of which numbers are rounded.
        label: for those who cannot see it; default: the caption.
        sortable: by a click on a column's name.
        sorted_by: column by which the rows are already in ascending order.
        marked_rows: numbers of the highlighted rows.
    """
    values = [list(row) for row in rows]
    digits = [
        _decimals([value for value in column if isinstance(value, float)]) for column in zip(*values, strict=True)
    ]
    grid = [[_as_cell(value, n) for value, n in zip(row, digits, strict=True)] for row in values]
    return HtmlTable(caption, header, grid, label or caption or "table", sortable, sorted_by, marked_rows)


def number_cells(row: Iterable[str]) -> list[Any]:
    """Cells that are sorted by the first number of their text: of an interval its lower end.

    Example:
        >>> [cell.value for cell in number_cells(["0.812 ± 0.03", "[-0.01, 0.02]", "< 0.001"])]
        [0.812, -0.01, 0.001]
        >>> number_cells(["-", "joint"])
        ['–', 'joint']
    """
    cells: list[Any] = []
    for text in row:
        try:
            interval = text.startswith("[") and text.endswith("]")
            cells.append(Cell(text, float(text[1:].split(",")[0] if interval else text.lstrip("< ").split()[0])))
        except (ValueError, IndexError):
            cells.append(DASH if text == "-" else text)
    return cells


def _as_cell(value: Any, decimals: int) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, float) and (abs(value) >= 0.001 or value == 0):
        return Cell(f"{value:.{decimals}f}", value)
    return Cell(cell_text(value), value if isinstance(value, (int, float)) and not isinstance(value, bool) else None)


def _decimals(numbers: Sequence[float]) -> int:
    """Decimal places for all numbers of a column, by the largest of them."""
    largest = max(map(abs, numbers), default=0.0)
    return 3 if largest < 10 else 1 if largest < 10_000 else 0


def cell_text(value: Any) -> str:
    """A value as text.

    Example:
        >>> [cell_text(x) for x in (0.12345, 12.3456, 12345.6, 1e-5, 3, None, True, "t1", ["a", 1])]
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
        return ", ".join(f"{key} {cell_text(x)}" for key, x in value.items()) or DASH
    if isinstance(value, (list, tuple)):
        return ", ".join(map(cell_text, value))
    return str(value)


def column_name(key: str) -> str:
    """The name of a column from the key of a record.

    Example:
        >>> column_name("hd95_mm"), column_name("target_ml"), column_name("true")
        ('HD95 [mm]', 'true [ml]', 'true')
    """
    stem, _, unit = key.rpartition("_")
    name = stem if unit in UNITS and stem else key
    name = NAMES.get(name, name).replace("_", " ")
    return f"{name} [{unit}]" if unit in UNITS and stem else name


# Metrics by their key without the unit; those without statistics have their key as a name, such as "missed lesions".
NAMES = {m.key.removesuffix(f"_{m.unit}"): m.name for m in METRICS if m.statistics} | {"target": "true"}
