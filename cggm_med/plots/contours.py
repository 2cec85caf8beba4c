"""Contours of true and predicted regions on slices of a case's scans."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cggm_med.plots.style import DASHED, write_figure

PANEL_INCHES = 2.7
MARGIN_MM = 4.0
LINE_INCHES = 0.2  # of text
LETTERS_AN_INCH = 10
LETTERS_OF_LINE = 6  # width of a legend's line and gaps
NO_BREAK = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Column:
    """One scan with a prediction over it.

    Attributes:
        title: above it, such as the modality.
        image: ``(x, y, z)`` in RAS+.
        prediction: ``(region, x, y, z)``.
    """

    title: str
    image: NDArray[Any]
    prediction: NDArray[np.bool_]


def contour_figure(
    path: Path,
    title: str,
    columns: Sequence[Column],
    target: NDArray[np.bool_],
    colours: Mapping[str, str],
    spacing_mm: Sequence[float],
    dice: Mapping[str, float] = MappingProxyType({}),
    *,
    oriented: bool = True,
) -> None:
    """True (solid) and predicted (dashed) contours on an axial and a coronal slice of every column.

    Slices go through the largest extent of the target; the patient's right is on the left, the radiological convention.

    Args:
        path: PNG file to write.
        title: above all, such as the case's id.
        columns: scans of one case.
        target: ``(region, x, y, z)``.
        colours: of the regions, by name, in their order.
        spacing_mm: voxel size along x, y, z.
        dice: by region, below the title; columns that differ in it have it in their own.
        oriented: whether it is known which side is left; if not, no side is marked.
    """
    inside = [column.image != column.image[0, 0, 0] for column in columns]
    box = _box(np.logical_or.reduce([*inside, *target]), spacing_mm)
    target = target[(slice(None), *box)]
    anything = target.any(0) if target.any() else columns[0].prediction[(slice(None), *box)].any(0)
    x_mm, y_mm, z_mm = (n * mm for n, mm in zip(anything.shape, spacing_mm, strict=True))
    heights = [PANEL_INCHES * y_mm / x_mm, PANEL_INCHES * z_mm / x_mm]
    # The legend needs the width of two panels; title and legend need an inch of height, and more for many regions.
    width = PANEL_INCHES * max(2, len(columns))
    scores = [f"{region} {dice[region]:.2f}".replace(" ", NO_BREAK) for region in colours if region in dice]
    line = textwrap.fill("Dice:  " + "   ".join(scores), int(width * LETTERS_AN_INCH)).replace(NO_BREAK, " ")
    longest = max(map(len, (*colours, "predicted")))
    side_by_side = max(1, min(len(colours) + 2, int(width * LETTERS_AN_INCH / (longest + LETTERS_OF_LINE))))
    rows = math.ceil((len(colours) + 2) / side_by_side)
    lines = line.count("\n") + max(column.title.count("\n") for column in columns)
    size = (width, sum(heights) + 1 + LINE_INCHES * (rows - 1 + lines))
    figure = Figure(figsize=size, layout="constrained", facecolor="black")
    axes = figure.subplots(2, len(columns), squeeze=False, height_ratios=heights)
    for row, (plane, axis) in zip(axes, [("axial", 2), ("coronal", 1)], strict=True):
        across, up = (a for a in range(3) if a != axis)
        index = int(anything.sum(axis=(across, up)).argmax()) if anything.any() else anything.shape[axis] // 2
        for ax, column, brain in zip(
            row, columns, (c.image[i] for c, i in zip(columns, inside, strict=True)), strict=True
        ):
            low, high = np.percentile(brain, [1, 99.5]) if brain.size else (0, 1)
            aspect = spacing_mm[up] / spacing_mm[across]
            ax.imshow(
                _slice(column.image[box], axis, index), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect
            )
            for masks, predicted in ((target, False), (column.prediction[(slice(None), *box)], True)):
                for colour, mask in zip(colours.values(), masks, strict=True):
                    _contour(ax, _slice(mask, axis, index), colour, predicted)
            ax.set_axis_off()
            if axis == 2:
                ax.set_title(column.title, color="white", fontsize=11)
        if oriented:
            _corner(row[0], 0, 1, "R")
            _corner(row[-1], 1, 1, "L")
        _corner(row[0], 0, 0, plane)
    figure.suptitle(f"{title}\n{line}" if scores else title, color="white", fontsize=11)
    handles = [Line2D([], [], color=colour, label=region) for region, colour in colours.items()]
    handles += [Line2D([], [], color="0.8", label="true"), Line2D([], [], color="0.8", ls=DASHED, label="predicted")]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=side_by_side, labelcolor="white", frameon=False, fontsize=10
    )
    write_figure(path, figure)


def _box(shown: NDArray[np.bool_], spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """Bounding box with a margin, so that the brain fills a panel, not its empty surroundings."""
    boxes = find_objects(shown.astype(np.uint8))
    if not boxes:
        return (slice(None),) * 3
    margins = [round(MARGIN_MM / mm) for mm in spacing_mm]
    return tuple(slice(max(0, s.start - m), s.stop + m) for s, m in zip(boxes[0], margins, strict=True))


def _slice(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """An axial or coronal slice, rows from bottom to top; x, which grows to the right in RAS+, is flipped."""
    return np.flip(np.take(volume, index, axis=axis), axis=0).T


def _contour(ax: Axes, mask: NDArray[np.bool_], colour: str, predicted: bool) -> None:
    if not mask.any():
        return
    # One empty pixel around closes the contour of a mask at the edge of the volume.
    rows, columns = (np.arange(-1, n + 1) for n in mask.shape)
    style = DASHED if predicted else "solid"
    view = ax.axis()
    lines = ax.contour(
        columns, rows, np.pad(mask, 1), levels=[0.5], colors=[colour], linestyles=[style], linewidths=1.4
    )
    ax.axis(view)
    if predicted:  # a dark rim shows the dashes where they lie on a solid line of their own colour
        lines.set_path_effects([withStroke(linewidth=2.3, foreground="black")])


def _corner(ax: Axes, x: float, y: float, text: str) -> None:
    across, up = ("left", "right")[int(x)], ("bottom", "top")[int(y)]
    ax.text(x, y, text, transform=ax.transAxes, ha=across, va=up, color="0.85", fontsize=10)
