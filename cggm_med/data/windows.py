"""Predicting a whole volume from overlapping windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, sliding_window_inference
from torch import Tensor

from cggm_med.precision import precision


def predict_volume(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    patch_size: Sequence[int],
    *,
    overlap: float,
    batch_size: int = 4,
) -> Tensor:
    """Predict a whole volume from overlapping patches, blended with Gaussian weights.

    The inverse of cutting patches: with a ``predict`` that returns its input, the volume comes back.

    Args:
        predict: maps ``(patch, modality, x, y, z)`` to ``(patch, channel, x, y, z)``.
        image: ``(modality, x, y, z)``.
        patch_size: voxels along x, y, z.
        overlap: share of a patch that its neighbour covers too, in [0, 1).
        batch_size: patches predicted at once.

    Returns:
        ``(channel, x, y, z)``.
    """
    volume: Tensor = sliding_window_inference(
        image[None], tuple(patch_size), batch_size, predict, overlap=overlap, mode="gaussian"
    )
    return volume[0]


class ProbabilityInferer(Inferer):
    """``predict_volume`` as a MONAI inferer: from a network's logits in each window to probabilities of the whole.

    Probabilities are what is blended, not logits, so that a window that is very sure does not outvote its neighbours.

    Args:
        roi_size: voxels of a window along x, y, z.
        overlap: share of a window that its neighbour covers too, in [0, 1).
        precision: see ``cggm_med.precision``.

    Example:
        >>> half = ProbabilityInferer((8, 8, 8), overlap=0.5)(torch.zeros(1, 1, 9, 9, 9), lambda window: window)
        >>> half.shape, half.mean().item()
        (torch.Size([1, 1, 9, 9, 9]), 0.5)
    """

    def __init__(self, roi_size: Sequence[int], overlap: float, precision: str = "auto") -> None:
        self.roi_size, self.overlap, self.precision = tuple(roi_size), overlap, precision

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Probabilities ``(batch, target, x, y, z)`` of images ``(batch, modality, x, y, z)``."""
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        autocast = precision(self.precision, images.device)

        def predict(window: Tensor) -> Tensor:
            with autocast():
                logits = network(window, *args, **kwargs)
            return torch.sigmoid(logits.float())

        return torch.stack([predict_volume(predict, image, self.roi_size, overlap=self.overlap) for image in images])
