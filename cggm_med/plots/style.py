"""The style of all figures: colours, line styles, and how a figure is written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cggm_med.files import atomic_file

# Okabe and Ito's palette, which colour-blind readers can tell apart, in an order that contrasts on grey scans.
REGION_COLOURS = ("#56B4E9", "#F0E442", "#D55E00", "#009E73", "#CC79A7")
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
FUSED_COLOUR = "0.2"
DASHED = (0, (2.2, 1.6))
DPI = 200


def open_frame(ax: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Take away the frame above and at the right, and draw a pale grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, alpha=0.25, lw=0.6)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure to a PNG file, whole or not at all."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
