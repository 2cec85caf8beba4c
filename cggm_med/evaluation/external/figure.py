"""Bland-Altman plots: the difference of predicted and true volume over their mean, a panel for each region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cggm_med.evaluation.external.agreement import Agreement
from cggm_med.plots.style import DASHED, LINE_COLOURS, open_frame, write_figure

COLUMNS = 3  # of panels


def bland_altman_figure(
    path: Path,
    title: str,
    volumes: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    found: Mapping[str, Agreement],
) -> None:
    """Cases as points, bias and limits of agreement as lines with bands of their intervals, as PNG.

    Args:
        path: to write.
        title: above all panels.
        volumes: predicted and true mL of the cases, by region.
        found: agreement by region.
    """
    columns = min(COLUMNS, len(volumes))
    rows = -(-len(volumes) // columns)
    figure = Figure(figsize=(4.2 * columns, 0.5 + 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for ax, (region, (predicted, true)) in zip(panels.flat, volumes.items(), strict=False):
        p, t, of = np.asarray(predicted), np.asarray(true), found[region]
        ax.axhline(0, color="0.7", lw=0.8, zorder=0)
        for name, estimate, style in (("bias", of.bias, "-"), ("", of.low, DASHED), ("limits", of.high, DASHED)):
            if estimate.value is None:
                continue
            ax.axhline(estimate.value, color=LINE_COLOURS[1], ls=style, lw=1.3)
            if estimate.interval is not None:
                ax.axhspan(*estimate.interval, color=LINE_COLOURS[1], alpha=0.12, lw=0)
            if name:
                ax.text(
                    1, estimate.value, name, transform=ax.get_yaxis_transform(), ha="right", va="bottom", fontsize=8
                )
        ax.plot((p + t) / 2, p - t, "o", color=LINE_COLOURS[0], ms=4, alpha=0.7, mew=0)
        ax.set_title(region, fontsize=11)
        ax.set_xlabel("mean of predicted and true volume [mL]")
        ax.set_ylabel("predicted - true [mL]")
        open_frame(ax)
    for ax in panels.flat[len(volumes) :]:
        ax.set_axis_off()
    figure.suptitle(title, fontsize=11)
    write_figure(path, figure)
