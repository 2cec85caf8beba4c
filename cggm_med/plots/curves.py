"""Curves of a training over its steps: loss, validation metrics, and what is logged for each modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cggm_med.plots.style import FUSED_COLOUR, LINE_COLOURS, open_frame, write_figure

SMOOTHING = 0.05  # standard deviation of the smoothing, as a share of a curve's records
MAX_CURVES = 4  # of the validation metrics, the first ones; metrics.jsonl has them all
# What is logged for each modality: title, and the neutral value.
MODALITY_PANELS: Mapping[str, tuple[str, float | None]] = {
    "score": ("score of each modality and of the fusion", None),
    "gradient_norm": ("gradient norm of each encoder and of the fusion", None),
    "cosine": ("cosine of own and fused gradient, last layer", 0.0),
    "factor": ("factor on each encoder's update", 1.0),
    "drop_rate": ("rate at which each modality is left out", None),
    "conflict_cosine": ("cosine of an encoder's two gradients", 0.0),
    "shapley_share": ("Shapley share of the fused score", None),
    "modality_scores": ("validation score of each modality alone", None),
}
AS_APPLIED = ("factor", "drop_rate", "shapley_share")
OF_VALIDATIONS = "modality_scores"
# What is logged for the fusion beside them.
FUSION_CURVES = {"score": "fused_score", "gradient_norm": "fusion_gradient_norm"}

Records = Sequence[Mapping[str, Any]]


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
    return record["losses"].get("task", record["loss"])


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
        elif key == OF_VALIDATIONS:
            ax.plot(steps, values, "o-", color=colour, lw=1.5, ms=3)
        else:
            _curve(ax, steps, values, colour)
    beside = FUSION_CURVES.get(key, "")
    fused = [(r["step"], r[beside]) for r in records if r.get(beside) is not None]
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
    open_frame(ax)
