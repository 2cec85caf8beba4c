"""Picture of a probe: one bar per read-out and modality, and the fused prediction as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from cggm_med.plots.style import DASHED, FUSED_COLOUR, LINE_COLOURS, open_frame, write_figure

COLOURS = ("0.78", LINE_COLOURS[5], LINE_COLOURS[0])
PANEL_INCHES = (3.4, 2.7)

Panel = Mapping[tuple[str, str], float | None]


def probe_figure(
    path: Path,
    title: str,
    panels: Mapping[str, Panel],
    modalities: Sequence[str],
    read_outs: Mapping[str, str],
    fused: str,
) -> None:
    """One panel per metric: bars side by side for each modality.

    Args:
        path: PNG file to write.
        title: above it.
        panels: by name of the metric, its values by modality and read-out; the fusion's under ``(fused, fused)``. What
            is absent or None is not drawn.
        modalities: in their order.
        read_outs: legend text of each, at most three, in the order of the bars.
        fused: key of the fused prediction.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = max(5.4, columns * max(PANEL_INCHES[0], 1.05 * len(modalities)))
    figure = Figure(figsize=(width, PANEL_INCHES[1] * rows + 1), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    shown = [
        by for by in read_outs if any(panel.get((m, by)) is not None for panel in panels.values() for m in modalities)
    ]
    wide = 0.84 / max(1, len(shown))
    for ax, (metric, panel) in zip(axes, panels.items(), strict=False):
        for number, by in enumerate(shown):
            places = np.arange(len(modalities)) + (number - (len(shown) - 1) / 2) * wide
            values = [panel.get((m, by)) for m in modalities]
            known = [(x, v) for x, v in zip(places, values, strict=True) if v is not None]
            if known:
                x, heights = zip(*known, strict=True)
                bars = ax.bar(x, heights, 0.92 * wide, color=COLOURS[list(read_outs).index(by)])
                # The line of the fused prediction may pass behind a number.
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8}
                ax.bar_label(bars, fmt="%.2f", fontsize=6.5, padding=1.5, bbox=box)
        together = panel.get((fused, fused))
        if together is not None:
            ax.axhline(together, color=FUSED_COLOUR, ls=DASHED, lw=1.2, zorder=0)
            ax.text(1.0, together, f" {together:.2f}", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
        numbers = [value for value in panel.values() if value is not None]
        if all(0 <= value <= 1 for value in numbers):
            ax.set_ylim(0, 1.06)
        ax.set_xticks(np.arange(len(modalities)), list(modalities))
        ax.set_title(metric, fontsize=10)
        open_frame(ax, "y")
        ax.set_axisbelow(True)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=label)
        for colour, (by, label) in zip(COLOURS, read_outs.items(), strict=False)
        if by in shown
    ]
    handles.append(Line2D([], [], color=FUSED_COLOUR, ls=DASHED, lw=1.2, label="fused prediction"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    write_figure(path, figure)
