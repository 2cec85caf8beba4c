"""Curves of a comparison over the budget: each strategy that was trained for several lengths, as table and figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from cggm_med.comparison.budgets import steps_of, without_budget
from cggm_med.comparison.compare import Comparison
from cggm_med.comparison.costs import usual_cost
from cggm_med.comparison.metric_rows import ComparisonRow
from cggm_med.plots.style import DASHED, FUSED_COLOUR, LINE_COLOURS, in_lines, open_frame, write_figure
from cggm_med.results.tables import Table, rounded, signed
from cggm_med.runs.finished_run import OVER_SUBSETS

MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Point:
    """One strategy at one budget.

    Attributes:
        name: of the strategy with its budget.
        steps: of the training.
        minutes: of processor time, the median over runs; None if no run has it.
        rows: of the first metric and, if all strategies were scored so, of its mean over subsets.
    """

    name: str
    steps: int
    minutes: float | None
    rows: tuple[ComparisonRow, ...]


def curves(comparison: Comparison) -> dict[str, list[Point]]:
    """Points by strategy, short trainings first; only strategies that were trained for several lengths."""
    both = (comparison.metrics[0], f"{comparison.chosen_by}, {OVER_SUBSETS}")
    metrics = [metric for metric in both if len(comparison.of_metric(metric)) == len(comparison.names)]
    found: dict[str, list[Point]] = {}
    for name in comparison.names:
        seconds = usual_cost(comparison, name, "cpu_seconds")
        rows = tuple(row for metric in metrics for row in comparison.of_metric(metric) if row.name == name)
        steps = steps_of([run for run in comparison.runs if run.name == name])
        point = Point(name, steps, None if seconds is None else seconds / 60, rows)
        found.setdefault(without_budget(name), []).append(point)
    lines = {kind: sorted(points, key=lambda point: point.steps) for kind, points in found.items()}
    return {kind: points for kind, points in lines.items() if len({point.steps for point in points}) > 1}


def curves_table(comparison: Comparison) -> Table | None:
    """One row per strategy and budget, with the difference to the baseline at the same budget; None without curves."""
    lines = curves(comparison)
    if not lines:
        return None
    rows = []
    for kind, points in lines.items():
        for point in points:
            cells = [kind, f"{point.steps:,}", rounded(point.minutes, 1)]
            for row in point.rows:
                low, high = row.difference_interval or (None, None)
                interval = "" if low is None else f" [{signed(low)}, {signed(high)}]"
                cells += [rounded(row.mean), signed(row.difference) + interval]
            rows.append(tuple(cells))
    columns = [part for row in next(iter(lines.values()))[0].rows for part in (row.score, "difference")]
    title = f"over the budget (difference to {comparison.baseline} at the same budget)"
    return Table(title, ("strategy", "steps", "processor min", *columns), tuple(rows))


def curves_figure(path: Path, comparison: Comparison) -> None:
    """A panel for each metric over steps, and one over processor time, a line per strategy, with intervals, as PNG."""
    lines = curves(comparison)
    timed = all(point.minutes is not None for points in lines.values() for point in points)
    metrics = [row.score for row in next(iter(lines.values()))[0].rows]
    figure = Figure(figsize=(4.6 * (1 + timed), 0.9 + 3.1 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), 1 + timed, squeeze=False, sharey="row", sharex="col")
    for number, (kind, points) in enumerate(lines.items()):
        colour = FUSED_COLOUR if kind == comparison.baseline else LINE_COLOURS[number % len(LINE_COLOURS)]
        aside = 1 + 0.012 * (number - (len(lines) - 1) / 2)  # so that intervals at the same number of steps can be told
        lengths = ([aside * point.steps for point in points], [point.minutes for point in points])
        for i in range(len(metrics)):
            rows = [point.rows[i] for point in points]
            for j, x in enumerate(lengths[: 1 + timed]):
                panels[i, j].errorbar(
                    x,
                    [row.mean for row in rows],
                    yerr=_reach(rows),
                    color=colour,
                    marker=MARKERS[number % len(MARKERS)],
                    ls=DASHED if number >= len(LINE_COLOURS) else "-",
                    lw=1.6,
                    ms=5,
                    elinewidth=0.9,
                    capsize=2.5,
                    label=in_lines(kind, 44) + "\n(A/A)" * any(point.name in comparison.repeats for point in points),
                )
    for i, metric in enumerate(metrics):
        panels[i, 0].set_ylabel(metric)
    for j, label in enumerate(("steps", "processor time [minutes]")[: 1 + timed]):
        panels[-1, j].set_xlabel(label)
        panels[-1, j].set_xscale("log")
    for ax in panels.flat:
        open_frame(ax)
    steps = sorted({point.steps for points in lines.values() for point in points})
    panels[-1, 0].set_xticks(steps, [f"{n:,}" for n in steps])
    panels[-1, 0].minorticks_off()
    if timed:
        panels[-1, 1].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[-1, 1].xaxis.set_major_formatter("{x:g}")
        panels[-1, 1].minorticks_off()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=9, frameon=False)
    figure.suptitle(f"{comparison.task}: equal steps{', and equal time' * timed} (mean, 95 % interval)", fontsize=11)
    write_figure(path, figure)


def _reach(rows: Sequence[ComparisonRow]) -> list[list[float]]:
    """How far the interval of each mean reaches down and up."""
    ends = [row.interval or (row.mean, row.mean) for row in rows]
    return [
        [max(0.0, row.mean - low) for row, (low, _) in zip(rows, ends, strict=True)],
        [max(0.0, high - row.mean) for row, (_, high) in zip(rows, ends, strict=True)],
    ]
