"""Figure of a comparison: the difference of each strategy to the baseline, with its 95 % interval."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cggm_med.comparison.compare import Comparison
from cggm_med.plots.style import FUSED_COLOUR, LINE_COLOURS, in_lines, write_figure
from cggm_med.runs.finished_run import OVER_SUBSETS

REPEAT_COLOUR = "0.45"  # of A/A rows


def comparison_figure(path: Path, comparison: Comparison) -> None:
    """One line per strategy, one panel for the first metric and, if computed, one for its mean over subsets, as PNG.

    A filled marker says that the interval excludes zero; the number at the right is the strategy's own mean.
    """
    metrics = [m for m in comparison.metrics if m in (comparison.metrics[0], f"{comparison.chosen_by}, {OVER_SUBSETS}")]
    names = comparison.names
    again = dict.fromkeys(comparison.repeats, "\n(A/A: baseline again, other initial weights)")
    labels = [in_lines(name) + again.get(name, "") for name in names]
    row_inches = 0.15 + 0.15 * max(label.count("\n") + 1 for label in labels)
    widest = max(len(line) for label in labels for line in label.split("\n"))
    size = (1.0 + 0.08 * widest + 3.9 * len(metrics), 1.3 + row_inches * len(names))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        _panel(ax, comparison, metric)
        better = "lower is better" if comparison.lower_is_better else "higher is better"
        ax.set_title(f"{metric} ({better})", fontsize=11)
        ax.set_xlabel(f"difference to {comparison.baseline}, 95 % interval")
    axes[0].set_yticks(range(len(names)), labels, fontsize=9)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    seeds, cases = len({r.seed for r in comparison.runs}), len({c for r in comparison.runs for c in r.tested})
    title = f"{comparison.task}: {seeds} seed{'s' * (seeds > 1)}, {cases} cases; at the right, the mean score"
    figure.suptitle(title, fontsize=11)
    write_figure(path, figure)


def _panel(ax: Axes, comparison: Comparison, metric: str) -> None:
    ax.axvline(0, color="0.4", lw=0.9, zorder=0)
    for row in comparison.of_metric(metric):
        y = comparison.names.index(row.name)
        if row.difference is not None:
            low, high = row.difference_interval or (row.difference, row.difference)
            colour = REPEAT_COLOUR if row.name in comparison.repeats else LINE_COLOURS[0]
            ax.plot([low, high], [y, y], color=colour, lw=1.8, solid_capstyle="butt")
            face = colour if low > 0 or high < 0 else "white"
            ax.plot(row.difference, y, "o", color=colour, mfc=face, ms=6)
        elif row.name == comparison.baselines[row.name]:
            ax.plot(0, y, "D", color=FUSED_COLOUR, ms=6)
        ax.annotate(
            f"{row.mean:.3f}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            fontweight="bold" if row.rank == 1 else "normal",
        )
    ax.locator_params(axis="x", nbins=5)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="x", alpha=0.25, lw=0.6)
