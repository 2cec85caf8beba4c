"""Figures of a run: contours on scans, learning curves, and curves of each modality; and the style they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cggm_med.files import atomic_file

# Okabe and Ito's palette, which colour-blind readers can tell apart, in an order that contrasts on grey scans.
REGION_COLOURS = ("#56B4E9", "#F0E442", "#D55E00", "#009E73", "#CC79A7")
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHED = (0, (2.2, 1.6))
PANEL_INCHES = 2.7
MARGIN_MM = 4.0
SMOOTHING = 0.05  # standard deviation of the smoothing, as a share of a curve's records
DPI = 200
MAX_CURVES = 4  # of the validation metrics, the first ones; metrics.jsonl has them all
FUSED_COLOUR = "0.2"
# What is logged for each modality: title, and the neutral value.
MODALITY_PANELS: Mapping[str, tuple[str, float | None]] = {
    "score": ("score of each modality and of the fusion", None),
    "gradient_norm": ("gradient norm of each encoder", None),
    "cosine": ("cosine of own and fused gradient, last layer", 0.0),
    "factor": ("factor on each encoder's update", 1.0),
    "drop_rate": ("rate at which each modality is left out", None),
    "conflict_cosine": ("cosine of an encoder's two gradients", 0.0),
    "shapley_share": ("Shapley share of the fused score", None),
}
AS_APPLIED = ("factor", "drop_rate", "shapley_share")

Records = Sequence[Mapping[str, Any]]


def contour_figure(
    path: Path,
    case_id: str,
    images: Mapping[str, NDArray[Any]],
    target: NDArray[np.bool_],
    prediction: NDArray[np.bool_],
    regions: Sequence[str],
    spacing_mm: Sequence[float],
    dice: Mapping[str, float],
) -> None:
    """True (solid) and predicted (dashed) contours on an axial and a coronal slice of every modality.

    Slices go through the largest extent of the target; the patient's right is on the left, the radiological convention.

    Args:
        path: PNG file to write.
        case_id: in the title.
        images: ``(x, y, z)`` in RAS+ by modality.
        target: ``(region, x, y, z)``.
        prediction: ``(region, x, y, z)``.
        regions: names.
        spacing_mm: voxel size along x, y, z.
        dice: by region, in the title.
    """
    inside = {modality: image != image[0, 0, 0] for modality, image in images.items()}
    box = _box(np.logical_or.reduce([*inside.values(), *target]), spacing_mm)
    target, prediction = target[(slice(None), *box)], prediction[(slice(None), *box)]
    anything = target.any(0) if target.any() else prediction.any(0)
    x_mm, y_mm, z_mm = (n * mm for n, mm in zip(anything.shape, spacing_mm, strict=True))
    heights = [PANEL_INCHES * y_mm / x_mm, PANEL_INCHES * z_mm / x_mm]
    # The legend needs the width of two panels; title and legend need an inch of height.
    size = (PANEL_INCHES * max(2, len(images)), sum(heights) + 1)
    figure = Figure(figsize=size, layout="constrained", facecolor="black")
    axes = figure.subplots(2, len(images), squeeze=False, height_ratios=heights)
    for row, (plane, axis) in zip(axes, [("axial", 2), ("coronal", 1)], strict=True):
        across, up = (a for a in range(3) if a != axis)
        index = int(anything.sum(axis=(across, up)).argmax()) if anything.any() else anything.shape[axis] // 2
        for ax, (modality, image) in zip(row, images.items(), strict=True):
            brain = image[inside[modality]]
            low, high = np.percentile(brain, [1, 99.5]) if brain.size else (0, 1)
            aspect = spacing_mm[up] / spacing_mm[across]
            ax.imshow(_slice(image[box], axis, index), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
            for masks, predicted in ((target, False), (prediction, True)):
                for colour, mask in zip(cycle(REGION_COLOURS), masks, strict=False):
                    _contour(ax, _slice(mask, axis, index), colour, predicted)
            ax.set_axis_off()
            if axis == 2:
                ax.set_title(modality, color="white", fontsize=11)
        _corner(row[0], 0, 1, "R")
        _corner(row[-1], 1, 1, "L")
        _corner(row[0], 0, 0, plane)
    scores = "   ".join(f"{region} {dice[region]:.2f}" for region in regions)
    figure.suptitle(f"{case_id}\nDice:  {scores}", color="white", fontsize=11)
    handles = [Line2D([], [], color=c, label=r) for c, r in zip(cycle(REGION_COLOURS), regions, strict=False)]
    handles += [Line2D([], [], color="0.8", label="true"), Line2D([], [], color="0.8", ls=DASHED, label="predicted")]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), labelcolor="white", frameon=False, fontsize=10
    )
    write_figure(path, figure)


def learning_figure(path: Path, records: Records) -> None:
    """Training loss and, if there was any, validation metrics over steps, from the lines of ``metrics.jsonl``."""
    validation = any(r["kind"] == "validation" for r in records)
    panels = 2 if validation else 1
    figure = Figure(figsize=(4.5 * panels, 3.4), layout="constrained")
    axes = figure.subplots(1, panels, sharex=True, squeeze=False)[0]
    loss_panel(axes[0], records)
    if validation:
        validation_panel(axes[1], records)
    write_figure(path, figure)


def loss_panel(ax: Axes, records: Records) -> None:
    """The training loss of the fused prediction over steps."""
    training = [r for r in records if r["kind"] == "train"]
    if training:
        _curve(ax, [r["step"] for r in training], [logged_loss(r) for r in training], LINE_COLOURS[0])
    _label(ax, "training loss of the fused prediction")


def logged_loss(record: Mapping[str, Any]) -> float:
    """The fused prediction's own part of a record's loss."""
    loss: float = record["losses"].get("task", record["loss"])
    return loss


def validation_panel(ax: Axes, records: Records) -> None:
    """The first few validation metrics over steps, if there was any validation."""
    validation = [r for r in records if r["kind"] == "validation"]
    if validation:
        steps = [r["step"] for r in validation]
        shown = list(validation[0]["scores"])[:MAX_CURVES]
        for colour, name in zip(LINE_COLOURS, shown, strict=False):
            values = np.array([r["scores"][name] for r in validation], dtype=float)  # None is NaN, a gap in the curve
            ax.plot(steps, values, "o-", color=colour, ms=3, label=name)
        if all(0 <= score <= 1 for r in validation for name in shown if (score := r["scores"][name]) is not None):
            ax.set_ylim(0, 1)
        ax.legend(frameon=False, loc="best", ncols=2, fontsize=9)
    _label(ax, "validation")


def modality_figure(path: Path, records: Records, modalities: Sequence[str]) -> bool:
    """Curves of each modality over the steps, one panel per logged quantity.

    Returns:
        Whether there was anything to draw.
    """
    panels = [key for key in MODALITY_PANELS if any(key in r for r in records)]
    if not panels:
        return False
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.3 * rows + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    fused = False
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, key in zip(axes, panels, strict=False):
        fused |= modality_panel(ax, key, records, modalities)
    handles = modality_handles(modalities, fused)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10)
    write_figure(path, figure)
    return True


def modality_panel(ax: Axes, key: str, records: Records, modalities: Sequence[str]) -> bool:
    """The panel ``key`` of ``MODALITY_PANELS``, one curve per modality.

    Returns:
        Whether there is a curve of the fusion as well.
    """
    title, neutral = MODALITY_PANELS[key]
    for colour, modality in zip(cycle(LINE_COLOURS), modalities, strict=False):
        points = [(r["step"], r[key][modality]) for r in records if r.get(key, {}).get(modality) is not None]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        if key in AS_APPLIED:  # smoothed, a factor would seem to leave 1 before it does
            ax.plot(steps, values, color=colour, lw=1.5)
        else:
            _curve(ax, steps, values, colour)
    fused = [(r["step"], r["fused_score"]) for r in records if key == "score" and r.get("fused_score") is not None]
    if fused:
        steps, values = zip(*fused, strict=True)
        _curve(ax, steps, values, FUSED_COLOUR)
    if key == "gradient_norm":
        ax.set_yscale("log")
    if neutral is not None:
        ax.axhline(neutral, color="0.4", lw=0.8, zorder=0)
    _label(ax, title)
    return bool(fused)


def modality_handles(modalities: Sequence[str], fused: bool) -> list[Line2D]:
    """Legend entries of the modalities and, if it is drawn, of the fusion."""
    handles = [Line2D([], [], color=c, lw=1.8, label=m) for c, m in zip(cycle(LINE_COLOURS), modalities, strict=False)]
    return [*handles, Line2D([], [], color=FUSED_COLOUR, lw=1.8, label="fused")] if fused else handles


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


def _curve(ax: Axes, steps: Sequence[int], values: Sequence[float], colour: str) -> None:
    """The values themselves, pale, and their smoothed course."""
    ax.plot(steps, values, color=colour, alpha=0.3, lw=0.8)
    ax.plot(steps, _smooth(values), color=colour, lw=1.8)


def _smooth(values: Sequence[float]) -> NDArray[np.float64]:
    """Gaussian mean over neighbours on both sides, which does not lag as a running mean does."""
    width = SMOOTHING * len(values)
    reach = np.arange(-int(3 * width), int(3 * width) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    return np.convolve(values, kernel, mode="same") / np.convolve(np.ones(len(values)), kernel, mode="same")


def _label(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("step")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure to a PNG file, whole or not at all."""
    FigureCanvasAgg(figure)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=DPI)
