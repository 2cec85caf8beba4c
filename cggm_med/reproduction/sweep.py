"""The picture of a sweep: what every value of a setting gives, beside the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cggm_med.plots.style import FUSED_COLOUR, LINE_COLOURS, open_frame, write_figure
from cggm_med.reproduction.cells import Cell
from cggm_med.reproduction.outcome import MARK
from cggm_med.reproduction.paper_table import PaperTable, Row

NAME = "sweep.png"
PANEL_INCHES = (4.2, 3.4)


def draw_sweep(folder: Path, table: PaperTable, cells: Sequence[Cell], phantom: bool) -> tuple[str, ...]:
    """Draw a panel for each column: the mean of each row with its 95 % interval, and a line at the baseline's.

    Args:
        folder: to write ``sweep.png`` to.
        table: whose rows are the values of ``table.sweep``, and the baseline.
        cells: of the table.
        phantom: whether to mark it as made from generated data.

    Returns:
        Its name; nothing for a table that is no sweep.
    """
    if not table.sweep:
        return ()
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * len(table.columns), height), layout="constrained")
    (axes,) = figure.subplots(1, len(table.columns), squeeze=False)
    values = [row for row in table.rows if row.variant != table.baseline]
    for ax, column in zip(axes, table.columns, strict=True):
        of_row = {cell.row: cell for cell in cells if cell.column == column.name}
        _panel(ax, [of_row[row.name] for row in values])
        for row in table.rows:
            mean = of_row[row.name].mean
            if row.variant == table.baseline and mean is not None:
                ax.axhline(mean, color=FUSED_COLOUR, lw=1.2, ls="--", label=row.name)
                ax.legend(frameon=False, fontsize=9)
        ax.set_xticks(range(len(values)), [_value(row, table.sweep) for row in values])
        ax.set_xlabel(table.sweep)
        ax.set_ylabel(f"{column.name} (%)" if column.percent else column.name)
        open_frame(ax, "y")
    figure.suptitle(table.shows + (f" ({MARK})" if phantom else ""), fontsize=9, color="0.4")
    write_figure(folder / NAME, figure)
    return (NAME,)


def _panel(ax: Axes, cells: Sequence[Cell]) -> None:
    known = [(x, cell.mean, cell.interval) for x, cell in enumerate(cells) if cell.mean is not None]
    ax.plot([x for x, _, _ in known], [mean for _, mean, _ in known], "o-", color=LINE_COLOURS[0], lw=1.4, ms=5)
    for x, _, interval in known:
        if interval is not None:
            ax.plot([x, x], interval, color=LINE_COLOURS[0], lw=1.4)


def _value(row: Row, symbol: str) -> str:
    return row.name.removeprefix(f"{symbol} = ")
