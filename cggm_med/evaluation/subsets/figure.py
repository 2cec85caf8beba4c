"""Heat map of the scores of each modality subset."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cggm_med.plots.style import write_figure

COLOURS = matplotlib.colormaps["viridis"]
ROW_INCHES, CELL_INCHES, DOT_INCHES = 0.29, 0.78, 0.36
GAP = 0.35  # rows, before the rows about all subsets
Row = Mapping[str, float | None]


def subset_figure(
    path: Path,
    title: str,
    modalities: Sequence[str],
    rows: Mapping[tuple[str, ...], Row],
    closing: Mapping[str, Row],
    *,
    lower_is_better: Collection[str] = (),
    note: str = "",
) -> None:
    """One row per subset, with a dot for each of its modalities, and its scores as numbers on colours.

    Where all scores lie between 0 and 1 and higher is better, the whole picture has one colour scale, and pictures of
    several runs can be compared. Otherwise each column has its own scale, from worst to best.

    Args:
        path: PNG file to write.
        title: above it.
        modalities: the run's modalities.
        rows: scores of each subset by column, from top to bottom; not too many to read.
        closing: rows about all subsets, by name.
        lower_is_better: columns in which lower is better.
        note: a line below the picture, such as what it leaves out.
    """
    columns = list(next(iter(rows.values())))
    known = {
        c: [v for row in (*rows.values(), *closing.values()) if (v := row[c]) is not None] or [0.0] for c in columns
    }
    one_scale = not lower_is_better and all(0 <= v <= 1 for values in known.values() for v in values)
    scales = {c: (0.0, 1.0) if one_scale else (min(values), max(values)) for c, values in known.items()}
    scales |= {c: scales[c][::-1] for c in lower_is_better}
    heights = [-float(i) for i in range(len(rows))]
    ends = [-(len(rows) + GAP + i) for i in range(len(closing))]

    dots, cells = max(DOT_INCHES * len(modalities), 1.45), CELL_INCHES * len(columns)
    tall = ROW_INCHES * (len(rows) + len(closing) + GAP)
    figure = Figure(figsize=(max(dots + cells + 1.3, 4.8), tall + 1.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[dots, cells])
    for subset, y in zip(rows, heights, strict=True):
        _dots(left, [m in subset for m in modalities], y)
    for name, y in zip(closing, ends, strict=True):
        left.text(len(modalities) - 0.6, y, name, ha="right", va="center", fontsize=9.5, clip_on=False)
    for row, y in zip((*rows.values(), *closing.values()), (*heights, *ends), strict=True):
        for x, column in enumerate(columns):
            _cell(right, x, y, row[column], scales[column])
    left.set_xlim(-0.6, len(modalities) - 0.4)
    right.set_xlim(-0.5, len(columns) - 0.5)
    left.set_ylim(ends[-1] - 0.6, 0.6)
    for ax, names in ((left, modalities), (right, columns)):
        ax.xaxis.tick_top()
        upright = any(len(name) > 5 for name in names) if ax is left else any(len(name) > 11 for name in names)
        turn = {"rotation": 60 if upright else 0, "ha": "left" if upright else "center", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(names)), names, **turn)
        ax.tick_params(length=0, labelsize=9.5)
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
    scale = ScalarMappable(Normalize(0, 1), COLOURS)
    bar = figure.colorbar(scale, ax=right, shrink=min(1.0, 2.2 / tall), aspect=14, pad=0.03)
    if not one_scale:
        bar.set_ticks([0, 1], labels=["worst", "best"])
        bar.set_label("of each column", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    figure.suptitle(title, fontsize=11)
    if note:
        figure.supxlabel(note, fontsize=9)
    write_figure(path, figure)


def _dots(ax: Axes, given: Sequence[bool], y: float) -> None:
    places = [x for x, is_given in enumerate(given) if is_given]
    ax.plot([places[0], places[-1]], [y, y], color="0.25", lw=1.4, zorder=1)
    ax.scatter(range(len(given)), [y] * len(given), s=34, c=["0.15" if g else "0.86" for g in given], zorder=2)


def _cell(ax: Axes, x: float, y: float, value: float | None, scale: tuple[float, float]) -> None:
    worst, best = scale
    if value is None:
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="0.93", edgecolor="white", lw=1.2))
        ax.text(x, y, "-", ha="center", va="center", color="0.3", fontsize=9.5)
        return
    share = 1.0 if worst == best else (value - worst) / (best - worst)
    red, green, blue, _ = COLOURS(share)
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.45
    ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=(red, green, blue), edgecolor="white", lw=1.2))
    ax.text(x, y, f"{value:.3f}", ha="center", va="center", color="black" if bright else "white", fontsize=9.5)
