"""Linear read-outs of an encoder's frozen feature pyramid at each voxel, and Dice by threshold of their masks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from cggm_med.evaluation.probe.readouts import MAX_ITERATIONS, Floats

NEVER = -20.0  # log-odds of a region without a drawn voxel
# Voxels of regions are drawn more often than they occur, so the best threshold may lie far above one half.
THRESHOLDS: Floats = expit(np.arange(-16, 41) / 4)


@dataclass(frozen=True)
class VoxelReadout:
    """A linear read-out of an encoder's whole pyramid, on the grid of its second scale.

    Args:
        weights: of each scale, finest first, ``(region, channel, 1, 1, 1)``.
        bias: ``(region,)``.
    """

    weights: tuple[Tensor, ...]
    bias: Tensor

    def __call__(self, maps: Sequence[Tensor]) -> Tensor:
        """Log-odds ``(batch, region, x, y, z)`` on the grid of the second scale."""
        half = maps[1].shape[2:]
        total = self.bias.view(1, -1, 1, 1, 1).to(maps[0].device)
        for weight, x in zip(self.weights, maps, strict=True):
            scale = F.conv3d(x.float(), weight.to(x.device))
            total = total + F.interpolate(scale, half, mode="nearest")
        return total


def voxel_features(maps: Sequence[Tensor], voxels: NDArray[np.int64]) -> Floats:
    """The features that ``VoxelReadout`` reads at some voxels of one sample: the channels of all scales side by side.

    Coarser scales are read at the voxel that covers the position, the finest at every second voxel.

    Args:
        maps: ``(1, channel, x, y, z)`` of each scale, finest first.
        voxels: ``(voxel, 3)`` on the grid of the second scale.

    Returns:
        ``(voxel, channel)``.
    """
    half = np.array(maps[1].shape[2:])
    features = []
    for x in maps:
        place = torch.from_numpy(voxels * np.array(x.shape[2:]) // half).to(x.device)
        features.append(x[0, :, place[:, 0], place[:, 1], place[:, 2]].T.double().cpu().numpy())
    return np.concatenate(features, axis=1)


def fit_voxels(x: Floats, y: NDArray[np.bool_], channels: Sequence[int]) -> VoxelReadout:
    """Logistic regression of each region on standardised features, with the penalty |w|^2 / 2 (C = 1).

    There are far more rows than channels, so the penalty hardly matters; it only keeps separable regions finite.

    Args:
        x: ``(voxel, channel)``, see ``voxel_features``.
        y: ``(voxel, region)``.
        channels: of each scale, finest first.
    """
    scaler = StandardScaler().fit(x)
    scaled = scaler.transform(x)
    weights, bias = np.zeros((y.shape[1], x.shape[1])), np.full(y.shape[1], NEVER)
    for region, inside in enumerate(y.T):
        if not inside.any():
            continue
        if inside.all():
            bias[region] = -NEVER
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # see fit_readout
            fitted = LogisticRegression(max_iter=MAX_ITERATIONS).fit(scaled, inside)
        weights[region] = fitted.coef_[0] / scaler.scale_
        bias[region] = fitted.intercept_[0] - weights[region] @ scaler.mean_
    split = torch.from_numpy(weights).float()[:, :, None, None, None].split(list(channels), dim=1)
    return VoxelReadout(tuple(split), torch.from_numpy(bias).float())


def draw_voxels(target: NDArray[Any], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Voxels of one patch: half of them in regions, equally many in each, and half in none, as far as they suffice.

    Args:
        target: ``(region, x, y, z)`` of 0 and 1.
        count: number of voxels to draw.
        random: source of the draw.

    Returns:
        ``(voxel, 3)``; a voxel in several regions may occur more than once.
    """
    drawn = [_some(np.argwhere(region), count // (2 * len(target)), random) for region in target]
    return np.concatenate([*drawn, _some(np.argwhere(~target.any(axis=0)), count // 2, random)])


def dice_by_threshold(probability: NDArray[np.floating], inside: NDArray[np.bool_]) -> Floats:
    """Dice of one region at each of ``THRESHOLDS``; 1 where the region is neither present nor predicted.

    Example:
        >>> values = dice_by_threshold(np.array([0.1, 0.4, 0.9]), np.array([False, True, True]))
        >>> values[np.searchsorted(THRESHOLDS, [0.05, 0.3, 0.6])].round(3).tolist()
        [0.8, 1.0, 0.667]
    """
    # A voxel is predicted at all thresholds that are not above its probability.
    passed = np.searchsorted(THRESHOLDS, probability.ravel(), side="right")

    def predicted(which: NDArray[np.int64]) -> Floats:
        """Number of these voxels that are predicted at each threshold."""
        counts = np.bincount(which, minlength=len(THRESHOLDS) + 1)
        return counts[::-1].cumsum()[::-1][1:].astype(np.float64)

    both = predicted(passed) + np.count_nonzero(inside)
    return np.where(both > 0, 2 * predicted(passed[inside.ravel()]) / np.where(both > 0, both, 1), 1.0)


def _some(voxels: NDArray[np.int64], count: int, random: np.random.Generator) -> NDArray[np.int64]:
    return voxels[random.permutation(len(voxels))[:count]]
