"""Gradients of the last layers in two dimensions, as in the figure of the CGGM paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE

MIN_POINTS = 6  # below which neighbourhoods mean nothing
PERPLEXITY = 30.0
SEED = 0
FUSED = "fused"


@dataclass(frozen=True)
class Points:
    """Directions of gradients.

    Attributes:
        of: ``(point,)`` a modality, for the gradient at its own head, or ``fused``.
        part: ``(point,)`` the modalities, joined by ``+``, whose part of the fused head the gradient belongs to.
        step: ``(point,)`` optimizer steps that were done.
        direction: ``(point, value)``, of length 1; shorter gradients are filled up with zeros.
    """

    of: tuple[str, ...]
    part: tuple[str, ...]
    step: NDArray[np.int64]
    direction: NDArray[np.float64]


def points(records: Sequence[Mapping[str, Any]]) -> Points:
    """The gradients of a run's ``gradients.jsonl`` as directions; those of length 0 have none and are left out."""
    named = [(m, m, r["step"], values) for r in records for m, values in r["own"].items()]
    named += [(FUSED, part, r["step"], values) for r in records for part, values in r["fused"].items()]
    named = [row for row in named if any(row[3])]
    direction = np.zeros((len(named), max((len(values) for *_, values in named), default=0)))
    for row, (*_, values) in zip(direction, named, strict=True):
        row[: len(values)] = np.array(values) / np.linalg.norm(values)
    return Points(
        of=tuple(row[0] for row in named),
        part=tuple(row[1] for row in named),
        step=np.array([row[2] for row in named], dtype=np.int64),
        direction=direction,
    )


def embed(direction: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Points in the plane whose neighbours are those of directions of similar angle, by t-SNE.

    The perplexity is 30, or with fewer than 91 points a third of them.

    Args:
        direction: ``(point, value)``.

    Returns:
        ``(point, 2)``, the same for the same input; None for too few points, or if all are the same.
    """
    count = len(direction)
    if count < MIN_POINTS or np.ptp(direction, axis=0).max() == 0:
        return None
    found: NDArray[np.float64] = TSNE(
        2, perplexity=min(PERPLEXITY, (count - 1) / 3), init="pca", random_state=SEED, n_jobs=1
    ).fit_transform(direction.astype(np.float32))
    return found
