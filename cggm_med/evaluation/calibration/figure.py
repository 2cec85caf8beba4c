"""Picture of calibration: observed frequency against predicted probability, before and after temperature scaling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from cggm_med.evaluation.calibration.scores import BINS, Calibration
from cggm_med.plots.style import LINE_COLOURS, open_frame, write_figure

# Colour, marker and line of each stage.
STYLES = (("before", LINE_COLOURS[1], "o", "solid"), ("after", LINE_COLOURS[0], "s", (0, (4, 1.5))))
PANEL_INCHES = 3.3
MIN_SHARE = 0.001  # smallest share that is drawn


def reliability_figure(
    path: Path,
    title: str,
    by_target: Mapping[str, tuple[Calibration, Calibration | None]],
    *,
    x_label: str,
    unit: str,
) -> None:
    """Draw reliability diagrams side by side, below each the share of predictions in its bins.

    Args:
        path: PNG file to write.
        title: above it.
        by_target: calibration before and after temperature scaling, by region; after is None where nothing was fitted.
        x_label: such as ``probability of the region``.
        unit: what the bins count, such as ``voxels``.
    """
    # One column alone is narrower than title and legend.
    figure = Figure(figsize=(max(5.4, PANEL_INCHES * len(by_target)), 5.6), layout="constrained")
    rows = figure.subplots(2, len(by_target), squeeze=False, sharex=True, sharey="row", height_ratios=[3, 1])
    for column, (target, stages) in enumerate(by_target.items()):
        above, below = rows[0, column], rows[1, column]
        above.plot([0, 1], [0, 1], color="0.6", lw=0.9, zorder=0)
        lines = [target] if target else []
        for (stage, colour, marker, line), calibration in zip(STYLES, stages, strict=True):
            if calibration is None:
                continue
            known = [(b.confidence, b.frequency, b.share) for b in calibration.bins if b.confidence is not None]
            x, y, share = zip(*known, strict=True)
            # A bin of few predictions says little, so it is drawn small.
            above.plot(x, y, color=colour, ls=line, lw=1, alpha=0.6)
            sizes = [12 + 90 * s for s in share]
            above.scatter(x, y, s=sizes, c=colour, marker=marker, clip_on=False, zorder=3)
            edges = [i / BINS for i in range(BINS + 1)]
            below.stairs([b.share for b in calibration.bins], edges, color=colour, ls=line, lw=1.4)
            lines.append(f"ECE {stage} {calibration.ece:.3f}")
        above.set_title("\n".join(lines), fontsize=10)
        above.set_xlim(0, 1)
        above.set_ylim(0, 1)
        below.set_yscale("log")
        below.set_ylim(MIN_SHARE, 1)
        below.set_yticks([MIN_SHARE * 10**i for i in range(4)])
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        below.yaxis.set_minor_formatter(NullFormatter())
        below.set_xlabel(x_label)
        for ax in (above, below):
            open_frame(ax)
    rows[0, 0].set_ylabel("observed frequency")
    rows[1, 0].set_ylabel(f"share of {unit}")
    shown = [s for i, s in enumerate(STYLES) if any(stages[i] is not None for stages in by_target.values())]
    handles = [
        Line2D([], [], color=c, marker=m, ls=ls, lw=1, ms=4.5, label=f"{stage} temperature scaling")
        for stage, c, m, ls in shown
    ]
    handles.append(Line2D([], [], color="0.6", lw=0.9, label="perfect"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    write_figure(path, figure)
