"""Figures of predicted classes and values: the confusion matrix, and predicted against true values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from cggm_med.metrics.classification_regression import Predicted
from cggm_med.plots.style import LINE_COLOURS, open_frame, write_figure

MAX_NAMED = 40  # classes up to which each is named along the axes
MAX_NUMBERED = 12  # classes up to which counts are written into the cells


def confusion_figure(path: Path, predicted: Predicted, classes: Sequence[str]) -> None:
    """Shares of each true class's samples by predicted class, as a PNG file."""
    numbers = np.arange(len(classes))
    counts = confusion_matrix(predicted.true, predicted.predicted, labels=numbers)
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    inches = 3.0 + 0.3 * min(len(classes), MAX_NAMED)
    figure = Figure(figsize=(inches + 0.8, inches), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= MAX_NAMED:
        axes.set_xticks(numbers, classes, rotation=90 if max(map(len, classes)) > 3 else 0)
        axes.set_yticks(numbers, classes)
    if len(classes) <= MAX_NUMBERED:
        for row, column in np.argwhere(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    write_figure(path, figure)


def scatter_figure(path: Path, predicted: Predicted) -> None:
    """Predicted against true values, with the line of perfect prediction, as a PNG file."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    low = min(predicted.true.min(), predicted.predicted.min())
    high = max(predicted.true.max(), predicted.predicted.max())
    axes.plot([low, high], [low, high], color="0.6", lw=0.8, zorder=0)
    axes.scatter(predicted.true, predicted.predicted, s=12, alpha=0.6, color=LINE_COLOURS[0], edgecolors="none")
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    open_frame(axes)
    write_figure(path, figure)
