"""The style of all figures: colours, line styles, and how a figure is written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb, to_hex
from matplotlib.figure import Figure

from cggm_med.files import atomic_file

# Colours that colour-blind readers can tell apart, in an order that contrasts on grey scans: Okabe and Ito's palette
# (https://jfly.uni-koeln.de/color), then those of Paul Tol's that differ most (https://personal.sron.nl/~pault).
REGION_COLOURS = (
    *("#56B4E9", "#F0E442", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#0072B2"),
    *("#EEDD88", "#882255", "#FFAABB", "#99DDFF", "#117733"),
)
GOLDEN_ANGLE = 0.6180339887  # of a turn: hues at multiples of it never come close to the last few
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
FUSED_COLOUR = "0.2"
DASHED = (0, (2.2, 1.6))
DPI = 200


def region_colours(regions: Sequence[str], declared: Mapping[str, str]) -> dict[str, str]:
    """A colour for each region, no two of them alike: its declared one, else the next that is not taken.

    Beyond the palette, colours are told apart by eye only side by side, and names have to help.

    Args:
        regions: names, in order.
        declared: colours of regions, such as ``#56B4E9``.

    Example:
        >>> region_colours(["a", "b", "c"], {"b": "#56b4e9"})
        {'a': '#F0E442', 'b': '#56b4e9', 'c': '#D55E00'}
    """
    taken = {colour.upper() for colour in declared.values()}
    free = (colour for colour in _colours() if colour not in taken)
    return {region: declared.get(region) or next(free) for region in regions}


def _colours() -> Iterator[str]:
    """The palette, then further hues at three strengths, each colour once."""
    seen = set(REGION_COLOURS)
    yield from REGION_COLOURS
    for k in itertools.count():
        saturation, value = ((0.75, 1.0), (0.4, 1.0), (0.9, 0.7))[k % 3]
        colour = to_hex(tuple(hsv_to_rgb((k * GOLDEN_ANGLE % 1, saturation, value)))).upper()
        if colour not in seen:
            seen.add(colour)
            yield colour


def in_lines(name: str, width: int = 64) -> str:
    """A long name in several lines, broken after its commas.

    Example:
        >>> in_lines("uniform, fusion=residual, modality_dropout=0.5", 26).splitlines()
        ['uniform, fusion=residual,', 'modality_dropout=0.5']
    """
    lines = [""]
    for word in name.split(", "):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += f"{word}, "
    return "\n".join(line.strip() for line in lines)[:-1]


def open_frame(ax: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    """Take away the frame above and at the right, and draw a pale grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, alpha=0.25, lw=0.6)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure to a PNG file, whole or not at all."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
