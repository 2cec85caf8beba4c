"""Pictures of a run: contours on scans, learning curves, and how the modalities fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cggm_med.files import atomic_file

# Okabe and Ito's palette, which colour-blind readers can tell apart; light ones first, to stand out on grey scans.
REGION_COLOURS = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73")
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SMOOTHING = 0.9  # decay of the smoothed training loss

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

    Slices go through the largest extent of the target; the patient's right is on the left, as radiologists look at it.

    Args:
        path: PNG file to write.
        case_id: for the title.
        images: ``(x, y, z)`` in RAS+ by modality.
        target: ``(region, x, y, z)``.
        prediction: ``(region, x, y, z)``.
        regions: names.
        spacing_mm: voxel size along x, y, z.
        dice: by region, for the title.
    """
    anything = target.any(0) if target.any() else prediction.any(0)
    planes = [("axial", 2), ("coronal", 1)]
    figure = Figure(figsize=(2.7 * len(images), 6.2), layout="constrained", facecolor="black")
    axes = figure.subplots(len(planes), len(images), squeeze=False)
    for row, (plane, axis) in zip(axes, planes, strict=True):
        extent = anything.sum(axis=tuple(a for a in range(3) if a != axis))
        index = int(extent.argmax()) if extent.any() else anything.shape[axis] // 2
        across, up = (a for a in range(3) if a != axis)
        for ax, (modality, image) in zip(row, images.items(), strict=True):
            inside = image[image != image[0, 0, 0]]
            low, high = np.percentile(inside, [1, 99.5]) if inside.size else (0, 1)
            aspect = spacing_mm[up] / spacing_mm[across]
            ax.imshow(_slice(image, axis, index), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
            for colour, true, predicted in zip(REGION_COLOURS, target, prediction, strict=False):
                _contour(ax, _slice(true, axis, index), colour, "solid")
                _contour(ax, _slice(predicted, axis, index), "white", (0, (2, 2)), width=0.7)
                _contour(ax, _slice(predicted, axis, index), colour, (0, (2, 2)))
            ax.set_axis_off()
            if row is axes[0]:
                ax.set_title(modality, color="white", fontsize=11)
        row[0].text(0.02, 0.02, plane, transform=row[0].transAxes, color="0.7", fontsize=8)
        row[0].text(0.02, 0.95, "R", transform=row[0].transAxes, color="0.7", fontsize=8)
    scores = "   ".join(f"{region} {dice[region]:.2f}" for region in regions)
    figure.suptitle(f"{case_id}   Dice: {scores}", color="white", fontsize=11)
    handles = [Line2D([], [], color=c, label=r) for c, r in zip(REGION_COLOURS, regions, strict=False)]
    handles += [
        Line2D([], [], color="0.8", label="true"),
        Line2D([], [], color="0.8", ls=(0, (2, 2)), label="predicted"),
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), labelcolor="white", frameon=False, fontsize=9
    )
    _write(path, figure)


def learning_figure(path: Path, records: Records) -> None:
    """Training loss and validation Dice over steps.

    Args:
        path: PNG file to write.
        records: lines of ``metrics.jsonl``.
    """
    training = [r for r in records if r["kind"] == "train"]
    validation = [r for r in records if r["kind"] == "validation"]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = [r["step"] for r in training]
    losses = [r["losses"].get("task", r["loss"]) for r in training]
    left.plot(steps, losses, color=LINE_COLOURS[0], alpha=0.3, lw=1)
    left.plot(steps, _smooth(losses), color=LINE_COLOURS[0], lw=1.8)
    _label(left, "training loss of the fused prediction")
    for colour, region in zip(LINE_COLOURS, validation[0]["dice"] if validation else (), strict=False):
        steps = [r["step"] for r in validation]
        right.plot(steps, [r["dice"][region] for r in validation], "o-", color=colour, ms=3, lw=1.5, label=region)
    _label(right, "validation Dice")
    right.set_ylim(0, 1)
    if validation:
        right.legend(frameon=False, loc="lower right")
    _write(path, figure)


def modality_figure(path: Path, records: Records, modalities: Sequence[str]) -> bool:
    """Each modality's score and factor over steps.

    Args:
        path: PNG file to write.
        records: lines of ``metrics.jsonl``.
        modalities: names.

    Returns:
        Whether there was anything to draw; joint training has neither scores nor factors.
    """
    panels = [("score", "soft Dice of each modality's head"), ("factor", "factor on each encoder's update")]
    panels = [(key, title) for key, title in panels if any(key in r for r in records)]
    if not panels:
        return False
    figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
    for ax, (key, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shown = [r for r in records if key in r]
        steps = [r["step"] for r in shown]
        for colour, modality in zip(LINE_COLOURS, modalities, strict=False):
            values = [r[key][modality] for r in shown]
            if key == "score":  # one batch's score is noisy, factors are smooth already
                ax.plot(steps, values, color=colour, alpha=0.2, lw=1)
                values = _smooth(values)
            ax.plot(steps, values, color=colour, lw=1.8, label=modality)
        if key == "factor":
            ax.axhline(1, color="0.6", lw=0.8, zorder=0)
        _label(ax, title)
        ax.legend(frameon=False, fontsize=9)
    _write(path, figure)
    return True


def _slice(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """An axial or coronal slice, rows from bottom to top; x, which grows to the right in RAS+, is turned round."""
    return np.flip(np.take(volume, index, axis=axis), axis=0).T


def _contour(ax: Axes, mask: NDArray[np.bool_], colour: str, style: Any, width: float = 1.3) -> None:
    if mask.any() and not mask.all():
        ax.contour(mask.astype(float), levels=[0.5], colors=[colour], linestyles=[style], linewidths=width)


def _smooth(values: Sequence[float]) -> list[float]:
    """Running mean that starts at the first value."""
    smooth: list[float] = []
    for value in values:
        smooth.append(value if not smooth else SMOOTHING * smooth[-1] + (1 - SMOOTHING) * value)
    return smooth


def _label(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=10)
    ax.set_xlabel("step")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, lw=0.6)


def _write(path: Path, figure: Figure) -> None:
    FigureCanvasAgg(figure)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=130)
