"""Segment a preprocessed scan, and bring its regions back to the scan's own grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.data.volumes.components import EVERYTHING, ComponentFilter
from cggm_med.data.volumes.labels import THRESHOLD, LabelConvention
from cggm_med.data.volumes.network_grid import NativeGrid
from cggm_med.data.volumes.resample import resample_onto
from cggm_med.models.sliding_window import predict_volume, require_finite
from cggm_med.objectives.activation import Activation, overlapping

FLIPS = tuple(axes for n in (1, 2, 3) for axes in itertools.combinations((1, 2, 3), n))  # of (channel, x, y, z)


@dataclass(frozen=True)
class SegmentedScan:
    """Region probabilities in the cropped part of a scan, and their mapping to its whole grid.

    Attributes:
        cropped: ``(region, x, y, z)`` in [0, 1], at the scan's own voxel size, turned to RAS+ and still cropped; 0 in
            voxels that are background in every image given.
        grid: the scan's own, which knows where that part lies.
        components: which components of the regions stay in the mask.
    """

    cropped: NDArray[np.float32]
    grid: NativeGrid
    components: ComponentFilter = EVERYTHING

    def on(self, grid: NativeGrid | None, within: NDArray[np.bool_] | None = None) -> SegmentedScan:
        """The same on another grid, by linear interpolation of the probabilities.

        Args:
            grid: the other one; None: the scan's own.
            within: ``(x, y, z)`` on the scan's own grid: outside, nothing is left.
        """
        if grid is None:
            return self if within is None else replace(self, cropped=self.cropped * self.grid.cropped(within))
        own, onto = np.array(self.grid.affine), np.array(grid.cropped_affine)
        kept = self.probability if within is None else self.probability * within
        moved = [resample_onto(p, own, grid.oriented_shape, onto, outside=0)[0] for p in kept]
        return replace(self, cropped=np.stack(moved), grid=grid)

    @property
    def probability(self) -> NDArray[np.float32]:
        """``(region, x, y, z)`` on the scan's own grid; 0 outside the foreground."""
        return np.stack([self.grid.uncropped(channel) for channel in self.cropped])

    def labels(self, convention: LabelConvention) -> NDArray[np.uint8]:
        """``(x, y, z)`` on the scan's own grid: the number of each voxel's innermost region, 0 outside all regions."""
        return self.grid.uncropped(convention.to_labels(self._masks(convention, THRESHOLD)))

    def regions(
        self, convention: LabelConvention, thresholds: float | NDArray[np.floating] = THRESHOLD
    ) -> NDArray[np.bool_]:
        """``(region, x, y, z)`` on the scan's own grid: the regions of ``labels``, which are what is scored.

        Args:
            convention: of the labels.
            thresholds: one for all regions, or one each, ``(region,)``.
        """
        masks = convention.painted(self._masks(convention, thresholds))
        return np.stack([self.grid.uncropped(mask) for mask in masks])

    def _masks(self, convention: LabelConvention, thresholds: float | NDArray[np.floating]) -> NDArray[np.bool_]:
        chosen = convention.chosen(self.cropped, thresholds)
        if not self.components.kept:
            return chosen
        return self.components(chosen, convention, math.prod(self.grid.spacing))


@torch.no_grad()
def segment_scan(
    logits: Callable[[Tensor], Tensor],
    image: Tensor,
    grid: NativeGrid,
    *,
    patch_size: Sequence[int],
    overlap: float,
    answers: int = 1,
    flips: bool = False,
    activation: Activation = overlapping,
) -> Iterator[SegmentedScan]:
    """Segment a whole scan window by window, and bring the predictions back to its grid.

    Args:
        logits: maps windows ``(window, modality, x, y, z)`` to ``(window, answer x region, x, y, z)``: of the fused
            prediction, and perhaps of heads or of subsets of the modalities.
        image: ``(modality, x, y, z)``, preprocessed, where the network is.
        grid: the scan's own, as preprocessing found it.
        patch_size: voxels of a window.
        overlap: of windows, see ``predict_volume``.
        answers: number of predictions.
        flips: average over all mirrored versions of the scan, which takes eight times as long.
        activation: from the logits of one prediction to its probabilities.

    Raises:
        NonFiniteLoss: if a logit is NaN or infinite.

    Returns:
        One for each prediction, brought back only when it is consumed, to save memory.
    """

    def probabilities(windows: Tensor) -> Tensor:
        one_each = require_finite(logits(windows)).unflatten(1, (answers, -1)).flatten(0, 1)
        return activation(one_each).unflatten(0, (-1, answers)).flatten(1, 2)

    def predict(seen: Tensor) -> Tensor:
        return predict_volume(probabilities, seen, patch_size, overlap=overlap)

    volume = predict(image)
    if flips:
        for axes in FLIPS:
            volume += predict(image.flip(axes)).flip(axes).to(volume.device)
        volume /= 1 + len(FLIPS)
    for answer in volume.chunk(answers):
        yield SegmentedScan(grid.resampled_back(answer), grid)
