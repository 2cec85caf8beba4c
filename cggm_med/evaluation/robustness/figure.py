"""Picture of a robustness test: Dice against severity, one panel per artefact, one line per modality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cggm_med.plots.style import DASHED, FUSED_COLOUR, LINE_COLOURS, open_frame, write_figure

MARKERS = ("o", "s", "^", "D", "v", "P")
PANEL_INCHES = (3.6, 2.9)

Rows = Sequence[Mapping[str, Any]]


def robustness_figure(path: Path, title: str, summary: Rows, modalities: Sequence[str]) -> None:
    """Draw Dice, averaged over regions and cases, against severity, and with modalities missing.

    Lines differ in colour and marker; all modalities at once are dashed; severity 0 is the clean scan. All panels with
    lines have one axis, which need not begin at 0; bars do.

    Args:
        path: PNG file to write.
        title: above it.
        summary: rows with ``artefact``, ``modalities``, ``severity``, ``region`` and ``dice_mean``, one of them clean.
        modalities: the run's modalities.
    """
    means = [row for row in summary if row["region"] == "mean"]
    clean = next(row["dice_mean"] for row in means if row["artefact"] == "clean")
    artefacts = list(dict.fromkeys(row["artefact"] for row in means if row["severity"]))
    missing = [row for row in means if row["artefact"] == "missing"]
    panels = len(artefacts) + bool(missing)
    columns = {4: 2, 7: 4, 8: 4}.get(panels, max(1, min(3, panels)))
    rows = max(1, -(-panels // columns))
    # One panel alone is narrower than title and legend.
    size = (max(2 * PANEL_INCHES[0], PANEL_INCHES[0] * columns), PANEL_INCHES[1] * rows + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    styles: dict[str, tuple[str, str, Any]] = {
        m: (c, k, "solid") for c, k, m in zip(cycle(LINE_COLOURS), cycle(MARKERS), modalities)
    }
    if len(modalities) > 1:
        styles["+".join(modalities)] = (FUSED_COLOUR, "X", DASHED)
    # Lines need no zero, and most lie close to one another.
    lowest = min(0.9, math.floor(10 * min(r["dice_mean"] for r in means if r["artefact"] != "missing")) / 10)
    for ax, artefact in zip(axes, artefacts, strict=False):
        mine = [row for row in means if row["artefact"] == artefact]
        for affected, (colour, marker, line) in styles.items():
            points = [(0, clean), *((r["severity"], r["dice_mean"]) for r in mine if r["modalities"] == affected)]
            x, y = zip(*points, strict=True)
            ax.plot(x, y, color=colour, marker=marker, ls=line, ms=4.5, lw=1.6, clip_on=False)
        ax.set_xlabel("severity")
        ax.set_xticks(sorted({0, *(row["severity"] for row in mine)}))
        _label(ax, artefact, clean, lowest)
    if missing:
        _missing(axes[len(artefacts)], missing, clean)
    for ax in axes[panels:]:
        ax.set_axis_off()
    figure.suptitle(f"{title}\nDice, mean of regions and cases; grey line: clean scans", fontsize=11)
    if artefacts:
        handles = [
            Line2D([], [], color=c, marker=k, ls=s, ms=4.5, lw=1.6, label="all at once" if "+" in name else name)
            for name, (c, k, s) in styles.items()
        ]
        columns = min(len(handles), 6)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
    write_figure(path, figure)


def _missing(ax: Axes, rows: Rows, clean: float) -> None:
    """One bar per missing subset."""
    names = [row["modalities"].replace("+", "\n+") for row in rows]
    bars = ax.bar(names, [row["dice_mean"] for row in rows], color=LINE_COLOURS[5], width=0.6)
    background = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    ax.bar_label(bars, fmt="%.2f", fontsize=9, padding=3, bbox=background)
    ax.set_xlabel("what is missing")
    _label(ax, "missing modalities", clean)


def _label(ax: Axes, title: str, clean: float, lowest: float = 0.0) -> None:
    ax.axhline(clean, color="0.6", lw=0.9, zorder=0)
    ax.set_title(title, fontsize=11)
    ax.set_ylim(lowest, 1)
    open_frame(ax, "y")
