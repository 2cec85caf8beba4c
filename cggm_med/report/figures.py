"""Figures of a report: curves of several runs on shared axes, and gradients in the plane."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from cggm_med.metrics.classification_regression import FUSED
from cggm_med.pages.tables import cell_text, column_name
from cggm_med.plots.curves import (
    FUSION_CURVES,
    MODALITY_PANELS,
    logged_loss,
    loss_panel,
    modality_handles,
    modality_panel,
    validation_panel,
)
from cggm_med.plots.style import FUSED_COLOUR, GOLDEN_ANGLE, LINE_COLOURS, open_frame
from cggm_med.report.tsne import GradientPoints
from cggm_med.runs.finished_run import FinishedRun

MAX_DRAWN = 6  # runs whose curves, gradients and cases are drawn
PANEL_INCHES = (4.6, 3.7)
FUSED_MARKERS = ("X", "D", "s", "^", "v", "P")
PALE = 0.75  # share of white in the first step's colour
TITLE_CHARACTERS = 44
# Title and explanation of each group of panels.
LOSS, VALIDATION = "loss", "validation"
PANELS: Mapping[str, tuple[str, str]] = {
    "score": (
        "Score of each modality and of the fusion",
        "How well each modality alone (its own classifier head, or its share of the fused head where the strategy uses "
        "that) and the fused prediction fit the training batch, from 0 to 1: soft Dice, probability of the true class, "
        "or for values exp(−|error| / scale).",
    ),
    "gradient_norm": (
        "Gradient magnitude",
        "L2 norm of the gradient of each modality's encoder, and of everything that no modality owns (fusion, decoder "
        "and head), before clipping and balancing.",
    ),
    "cosine": (
        "Gradient direction",
        "Cosine between the gradient of each modality's own loss and that of the fused loss at their last layers: 1 is "
        "the same direction, 0 a right angle.",
    ),
    "factor": (
        "Balancing factor",
        "What the strategy multiplies each encoder's update by; 1 changes nothing.",
    ),
    "drop_rate": ("Drop rate", "Rate at which the strategy leaves each modality out."),
    "conflict_cosine": (
        "Conflict within an encoder",
        "Cosine between the gradients of the fused loss and of the modality's own loss in its encoder; below 0 they "
        "pull apart.",
    ),
    "shapley_share": ("Shapley share", "Each modality's share of the fused score on the training batch."),
    "modality_scores": (
        "Validation score of each modality alone",
        "The score of the validation split that chooses the checkpoint, of each modality's own classifier head.",
    ),
    LOSS: ("Training loss", "Loss of the fused prediction on the training batch."),
    VALIDATION: ("Validation", "Scores of the validation split; the first four if there are more."),
}


def has_curve(run: FinishedRun, key: str) -> bool:
    """Whether a run logged what a panel shows."""
    if key in (LOSS, VALIDATION):
        return any(r["kind"] == ("train" if key == LOSS else VALIDATION) for r in run.records)
    return any(key in r for r in run.records)


def curve_figures(runs: Sequence[FinishedRun], key: str) -> list[Figure]:
    """One panel per run, all with the same axes; every run must have the curves of ``key``."""
    if not runs:
        return []
    panels: list[tuple[Figure, Axes]] = []
    for run in runs:
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        ax = figure.subplots()
        if key in MODALITY_PANELS:
            fused = modality_panel(ax, key, run.records, run.modalities)
            handles = modality_handles(run.modalities, fused)
            figure.legend(
                handles=handles, loc="outside lower center", ncols=min(len(handles), 5), frameon=False, fontsize=10
            )
        else:
            (loss_panel if key == LOSS else validation_panel)(ax, run.records)
        set_title(ax, run.name)
        panels.append((figure, ax))
    for limits, set_limits in ((Axes.get_xlim, Axes.set_xlim), (Axes.get_ylim, Axes.set_ylim)):
        lows, highs = zip(*(limits(ax) for _, ax in panels), strict=True)
        shared = min(lows), max(highs)
        for _, ax in panels:
            set_limits(ax, shared)
    return [figure for figure, _ in panels]


def curve_rows(run: FinishedRun, key: str) -> list[dict[str, Any]]:
    """The numbers of a panel, one row per point."""
    rows: list[dict[str, Any]] = []
    for record in run.records:
        start = {"run": run.name, "step": record["step"]}
        if key == LOSS and record["kind"] == "train":
            rows.append({**start, "loss": logged_loss(record)})
        elif key == VALIDATION and record["kind"] == VALIDATION:
            rows += [{**start, "score": name, "value": value} for name, value in record["scores"].items()]
        elif key in MODALITY_PANELS and key in record:
            rows += [{**start, "modality": m, "value": value} for m, value in record[key].items()]
            if (beside := FUSION_CURVES.get(key)) in record:
                rows.append({**start, "modality": FUSED, "value": record[beside]})
    return rows


def curve_words(run: FinishedRun, key: str) -> str:
    """A panel in words: where each curve starts and ends."""
    curves: dict[str, list[Any]] = {}
    for row in curve_rows(run, key):
        name = str(row.get("modality") or row.get("score") or "loss")
        curves.setdefault(name, []).append(row.get("value", row.get("loss")))
    words = [
        f"{name} from {cell_text(known[0])} to {cell_text(known[-1])}"
        for name, values in curves.items()
        if (known := [value for value in values if value is not None])
    ]
    return f"{PANELS[key][0]} over the steps of {run.name}: {', '.join(words) or 'nothing defined'}"


def gradient_figure(
    name: str, gradients: GradientPoints, plane: NDArray[np.float64], modalities: Sequence[str]
) -> Figure:
    """Gradients at their points ``(point, 2)`` in the plane, coloured by modality or fused; pale early, full late."""
    figure = Figure(figsize=(PANEL_INCHES[0], PANEL_INCHES[1] + 0.6), layout="constrained")
    ax = figure.subplots()
    progress = gradients.step / gradients.step.max()
    styles = {(m, m): (colour, "o") for m, colour in zip(modalities, cycle(LINE_COLOURS), strict=False)}
    parts = list(dict.fromkeys(part for of, part in zip(gradients.of, gradients.part, strict=True) if of == FUSED))
    styles |= {(FUSED, part): (FUSED_COLOUR, m) for part, m in zip(parts, cycle(FUSED_MARKERS), strict=False)}
    keys = list(zip(gradients.of, gradients.part, strict=True))
    for key, (colour, marker) in styles.items():
        own = np.array([k == key for k in keys], dtype=bool)
        shades = [_shade(colour, p) for p in progress[own]]
        ax.scatter(plane[own, 0], plane[own, 1], s=26, c=shades, marker=marker, edgecolors="none")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel("t-SNE 1")
    ax.set_ylabel("t-SNE 2")
    set_title(ax, name)
    handles = [
        Line2D([], [], color=c, marker=m, ls="", ms=6, label=_label(key, len(parts))) for key, (c, m) in styles.items()
    ]
    ends = (("first step", _shade(FUSED_COLOUR, 0)), ("last step", _shade(FUSED_COLOUR, 1)))
    handles += [Line2D([], [], color=c, marker="o", ls="", ms=6, label=label) for label, c in ends]
    columns = 3 if len(handles) > 6 else 4
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def gradient_rows(name: str, gradients: GradientPoints, plane: NDArray[np.float64]) -> list[dict[str, Any]]:
    """The numbers of ``gradient_figure``."""
    return [
        {"run": name, "of": of, "part": part, "step": int(step), "x": round(float(x), 4), "y": round(float(y), 4)}
        for of, part, step, (x, y) in zip(gradients.of, gradients.part, gradients.step, plane, strict=True)
    ]


def distribution_figure(runs: Sequence[FinishedRun], key: str) -> Figure:
    """A metric of every case as a point, by region and run, over a box from the lower to the upper quartile."""
    names = [run.name for run in runs]
    regions = list(dict.fromkeys(row["region"] for run in runs for row in run.report.scores.cases))
    wide = 0.8 / len(names)
    across = max(PANEL_INCHES[0], 0.8 + 0.45 * len(regions) * len(names))
    figure = Figure(figsize=(across, PANEL_INCHES[1]), layout="constrained")
    ax = figure.subplots()
    for k, (run, colour) in enumerate(zip(runs, cycle(LINE_COLOURS), strict=False)):
        for position, region in enumerate(regions):
            rows = [row for row in run.report.scores.cases if row["region"] == region and row[key] is not None]
            found, middle = [row[key] for row in rows], position + (k - (len(names) - 1) / 2) * wide
            # Beside one another by golden steps, which look random and are the same each time.
            aside = (np.arange(len(found)) * GOLDEN_ANGLE % 1 - 0.5) * wide * 0.6
            ax.scatter(middle + aside, found, s=16, c=colour, alpha=0.6, edgecolors="none", clip_on=False)
            if found:
                low, median, high = np.quantile(found, [0.25, 0.5, 0.75])
                ax.add_patch(Rectangle((middle - 0.4 * wide, low), 0.8 * wide, high - low, fill=False, ec=colour))
                ax.hlines(median, middle - 0.4 * wide, middle + 0.4 * wide, colors=colour, lw=2.2)
    ax.set_xticks(range(len(regions)), regions)
    ax.set_ylabel(column_name(key))
    ax.set_ylim(bottom=0)
    open_frame(ax, "y")
    if len(names) > 1:
        handles = [
            Line2D([], [], color=c, marker="o", ls="", label=name)
            for name, c in zip(names, cycle(LINE_COLOURS), strict=False)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(names), 3), frameon=False, fontsize=9)
    return figure


def set_title(ax: Axes, name: str) -> None:
    """A run's name above a panel, on several lines if it is long."""
    ax.set_title("\n".join(textwrap.wrap(name, TITLE_CHARACTERS)).replace("$", r"\$"), fontsize=11)


def _shade(colour: str, progress: float) -> tuple[float, float, float]:
    white = PALE * (1 - progress)
    red, green, blue = (c * (1 - white) + white for c in to_rgb(colour))
    return red, green, blue


def _label(key: tuple[str, str], fused_parts: int) -> str:
    of, part = key
    return f"fused, {part}" if of == FUSED and fused_parts > 1 else of
