"""Figure of a comparison: what each strategy costs in time, against what it gains."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from cggm_med.comparison.budgets import longest
from cggm_med.comparison.compare import Comparison
from cggm_med.comparison.costs import cost_ratio
from cggm_med.comparison.figure import REPEAT_COLOUR
from cggm_med.plots.style import LINE_COLOURS, in_lines, open_frame, write_figure
from cggm_med.runs.finished_run import OVER_SUBSETS


def priced(comparison: Comparison) -> dict[str, float]:
    """Time over the baseline's of each strategy that can be drawn: the longest training, compared, of known cost."""
    ratios = {name: cost_ratio(comparison, name, "cpu_seconds") for name in longest(comparison.runs)}
    compared = {row.name for row in comparison.rows if row.difference is not None}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None and name in compared}


def cost_figure(path: Path, comparison: Comparison) -> None:
    """Time over the baseline's against the gain and its interval, a panel for the first metric and one over subsets.

    Strategies have numbers, which stand beside the figure with their names.
    """
    metrics = [m for m in (comparison.metrics[0], f"{comparison.chosen_by}, {OVER_SUBSETS}") if m in comparison.metrics]
    drawn = priced(comparison)
    listed = [f"{n}  {name}{' (A/A)' * (name in comparison.repeats)}" for n, name in enumerate(drawn, 1)]
    lines = "\n".join(in_lines(text, 44).replace("\n", "\n     ") for text in listed).split("\n")
    label = 0.075 * max(map(len, lines)) + 0.6
    figure = Figure(figsize=(4.2 * len(metrics) + label, max(3.4, 0.9 + 0.17 * len(lines))), layout="constrained")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    sign = -1 if comparison.lower_is_better else 1
    for ax, metric in zip(panels, metrics, strict=True):
        rows = {row.name: row for row in comparison.of_metric(metric)}
        for number, name in enumerate(drawn, 1):
            if (row := rows.get(name)) is None:
                continue
            ratio = drawn[name]
            gain = sign * (row.difference or 0.0)  # priced, so there is one
            colour = REPEAT_COLOUR if name in comparison.repeats else LINE_COLOURS[0]
            if row.difference_interval is not None:
                ends = [sign * end for end in row.difference_interval]
                ax.plot([ratio, ratio], ends, color=colour, lw=1.2, alpha=0.6, zorder=1)
            ax.scatter([ratio], [gain], s=110, color="white", edgecolor=colour, lw=1.4, zorder=2)
            ax.text(ratio, gain, str(number), ha="center", va="center", fontsize=7.5, zorder=3)
        ax.axhline(0, color="0.4", lw=0.9, zorder=0)
        ax.axvline(1, color="0.4", lw=0.9, ls=(0, (4, 3)), zorder=0)
        ax.set_title(metric, fontsize=11)
        ax.set_xlabel(f"processor time over {comparison.baseline}")
        ax.margins(0.12)
        open_frame(ax)
    panels[0].set_ylabel(f"gain over {comparison.baseline}, 95 % interval")
    panels[-1].annotate(
        "\n".join(lines), (1.03, 1), xycoords="axes fraction", va="top", fontsize=9, annotation_clip=False
    )
    at = ", longest training" * (len(longest(comparison.runs)) < len(comparison.names))
    figure.suptitle(f"{comparison.task}: what a strategy costs, and what it gains{at}", fontsize=11)
    write_figure(path, figure)
