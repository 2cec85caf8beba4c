"""Heat map of a comparison: each strategy on each subset of the modalities, with the half width of its interval."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cggm_med.comparison.budgets import longest
from cggm_med.comparison.compare import Comparison
from cggm_med.comparison.subset_scores import SubsetScore, subsets_of
from cggm_med.plots.style import in_lines, write_figure

COLOURS = matplotlib.colormaps["viridis"]
CELL_INCHES, ROW_INCHES, DOT_INCHES = 0.62, 0.44, 0.2
MAX_DRAWN = 31  # subsets, of five modalities


def subset_figure(path: Path, comparison: Comparison) -> None:
    """Strategies as rows, subsets as columns with a dot for each of their modalities, as PNG."""
    scores, every = comparison.subset_scores, subsets_of(comparison.runs)
    modalities = list(dict.fromkeys(name for subset in every for name in subset.split("+")))
    sizes = (1, len(modalities) - 1, len(modalities)) if len(every) > MAX_DRAWN else range(1, len(modalities) + 1)
    shown = [subset for subset in every if len(subset.split("+")) in sizes]
    names = [name for name in longest(comparison.runs) if any(score.name == name for score in scores)]
    cells = {(score.name, score.subset): score for score in scores if score.subset in shown}
    known = [score.mean for score in cells.values()]
    scale = (0.0, 1.0) if all(0 <= value <= 1 for value in known) else (min(known), max(known))
    scale = scale[::-1] if comparison.lower_is_better else scale
    tall = DOT_INCHES * len(modalities), ROW_INCHES * len(names)
    labels = [in_lines(name) for name in names]
    label = 0.07 * max(len(line) for text in labels for line in text.split("\n"))
    figure = Figure(figsize=(label + CELL_INCHES * len(shown) + 1.2, sum(tall) + 1.2), layout="constrained")
    top, body = figure.subplots(2, 1, sharex=True, height_ratios=tall)
    for x, subset in enumerate(shown):
        given = [modality in subset.split("+") for modality in modalities]
        places = [-y for y, is_given in enumerate(given) if is_given]
        top.plot([x, x], [places[0], places[-1]], color="0.25", lw=1.4, zorder=1)
        top.scatter([x] * len(given), [-y for y in range(len(given))], s=30, c=["0.15" if g else "0.86" for g in given])
        for y, name in enumerate(names):
            _cell(body, x, y, cells.get((name, subset)), scale)
    top.set_yticks([-y for y in range(len(modalities))], modalities)
    top.set_ylim(-len(modalities) + 0.4, 0.6)
    body.set_yticks(range(len(names)), labels)
    body.set_ylim(len(names) - 0.5, -0.5)
    body.set_xlim(-0.5, len(shown) - 0.5)
    for ax in (top, body):
        ax.tick_params(length=0, labelsize=9, labelbottom=False)
        ax.spines[:].set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(Normalize(min(scale), max(scale)), COLOURS),
        ax=body,
        aspect=12,
        pad=0.01,
        shrink=min(1.0, 3 / tall[1]),
    )
    bar.ax.tick_params(labelsize=8)
    if comparison.lower_is_better:
        bar.ax.invert_yaxis()
    left_out = "" if len(shown) == len(every) else f" ({len(shown)} of {len(every)} subsets: one, all but one, and all)"
    left_out += ", longest training" * (len(names) < len({score.name for score in scores}))
    title = f"{comparison.task}: {comparison.chosen_by} by subset{left_out}, mean and half width of its 95 % interval"
    figure.suptitle(in_lines(title, int(12 * figure.get_figwidth())), fontsize=11)
    write_figure(path, figure)


def _cell(ax: Axes, x: int, y: int, score: SubsetScore | None, scale: tuple[float, float]) -> None:
    corner = (x - 0.5, y - 0.5)
    if score is None:
        ax.add_patch(Rectangle(corner, 1, 1, facecolor="0.93", edgecolor="white", lw=1.2))
        ax.text(x, y, "-", ha="center", va="center", color="0.3", fontsize=9)
        return
    worst, best = scale
    red, green, blue, _ = COLOURS(1.0 if worst == best else (score.mean - worst) / (best - worst))
    colour = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.45 else "white"
    ax.add_patch(Rectangle(corner, 1, 1, facecolor=(red, green, blue), edgecolor="white", lw=1.2))
    ax.text(x, y - 0.14, f"{score.mean:.3f}", ha="center", va="center", color=colour, fontsize=9)
    half = (score.high - score.low) / 2
    ax.text(x, y + 0.24, f"± {half:.3f}", ha="center", va="center", color=colour, fontsize=7)
