"""Pictures that belong to a figure of a paper: curves over training, and gradients in the plane."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cggm_med.files import write_text
from cggm_med.plots.style import write_figure
from cggm_med.report import tsne
from cggm_med.report.figures import PANELS, curve_figures, curve_rows, gradient_figure, gradient_rows, has_curve
from cggm_med.reproduction.outcome import MARK, whose_data
from cggm_med.reproduction.paper_table import PaperTable
from cggm_med.results.tables import csv_text
from cggm_med.runs.finished_run import FinishedRun


def draw(folder: Path, table: PaperTable, runs: Sequence[FinishedRun], phantom: bool) -> tuple[str, ...]:
    """Draw what a table asks for, a PNG for each run and quantity, and the numbers of each quantity as CSV.

    Args:
        folder: to write to.
        table: of a paper.
        runs: one of each row, named as the row.
        phantom: whether to mark every file as made from generated data.

    Returns:
        Names of the pictures.
    """
    names: list[str] = []
    for key in table.panels:
        logged = [run for run in runs if has_curve(run, key)]
        for run, figure in zip(logged, curve_figures(logged, key), strict=True):
            names.append(_write(folder, key, PANELS[key][0], run, figure, phantom))
        rows = [row for run in logged for row in curve_rows(run, key)]
        _numbers(folder / f"{key}.csv", rows, phantom)
    if table.tsne:
        rows = []
        for run in runs:
            gradients = tsne.gradient_points(run.gradients)
            if (plane := tsne.embed(gradients.direction)) is not None:
                figure = gradient_figure(run.name, gradients, plane, run.modalities)
                names.append(_write(folder, "tsne", "Gradients at the last layers", run, figure, phantom))
                rows += gradient_rows(run.name, gradients, plane)
        _numbers(folder / "tsne.csv", rows, phantom)
    return tuple(names)


def _write(folder: Path, key: str, quantity: str, run: FinishedRun, figure: Figure, phantom: bool) -> str:
    name = f"{key}-{re.sub(r'[^a-z0-9]+', '-', run.name.lower()).strip('-')}.png"
    figure.suptitle(quantity + (f" ({MARK})" if phantom else ""), fontsize=9, color="0.4")
    write_figure(folder / name, figure)
    return name


def _numbers(path: Path, rows: Sequence[dict[str, object]], phantom: bool) -> None:
    if rows:
        write_text(path, csv_text([{**row, "data": whose_data(phantom)} for row in rows]))
