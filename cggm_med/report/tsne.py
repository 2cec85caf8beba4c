"""Gradients at the last layers in two dimensions by t-SNE, as in the figure of the CGGM paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from cggm_med.metrics.classification_regression import FUSED

MIN_POINTS = 6  # with fewer, neighbourhoods mean nothing
PERPLEXITY = 30.0
SEED = 0


@dataclass(frozen=True)
class GradientPoints:
    """Directions of gradients.

    Attributes:
        of: ``(point,)`` a modality, for the gradient at its own head, or ``fused``.
        part: ``(point,)`` the modalities, joined by ``+``, whose part of the fused head the gradient belongs to.
        step: ``(point,)`` optimizer steps taken.
        direction: ``(point, value)``, of length 1; gradients with fewer values are padded with zeros.
    """

    of: tuple[str, ...]
    part: tuple[str, ...]
    step: NDArray[np.int64]
    direction: NDArray[np.float64]


def gradient_points(records: Sequence[Mapping[str, Any]]) -> GradientPoints:
    """The directions of the gradients in a run's ``gradients.jsonl``; those of length 0 are left out."""
    named = [(m, m, r["step"], values) for r in records for m, values in r["own"].items()]
    named += [(FUSED, part, r["step"], values) for r in records for part, values in r["fused"].items()]
    named = [row for row in named if any(row[3])]
    direction = np.zeros((len(named), max((len(values) for *_, values in named), default=0)))
    for row, (*_, values) in zip(direction, named, strict=True):
        row[: len(values)] = np.array(values) / np.linalg.norm(values)
    return GradientPoints(
        of=tuple(row[0] for row in named),
        part=tuple(row[1] for row in named),
        step=np.array([row[2] for row in named], dtype=np.int64),
        direction=direction,
    )


def embed(direction: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Points in the plane, where directions of similar angle are neighbours, by t-SNE.

    The perplexity is 30, or a third of the points if there are fewer than 91.

    Args:
        direction: ``(point, value)``.

    Returns:
        ``(point, 2)``, the same for the same input; None for too few points, or if all are the same.
    """
    count = len(direction)
    if count < MIN_POINTS or np.ptp(direction, axis=0).max() == 0:
        return None
    plane: NDArray[np.float64] = TSNE(
        2, perplexity=min(PERPLEXITY, (count - 1) / 3), init="pca", random_state=SEED, n_jobs=1
    ).fit_transform(direction.astype(np.float32))
    return plane
