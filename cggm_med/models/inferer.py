"""The sliding window as MONAI asks for it, in bundles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from cggm_med.device import precision
from cggm_med.models.sliding_window import predict_volume, require_finite
from cggm_med.objectives.activation import activation


class ProbabilityInferer(Inferer):
    """``predict_volume`` as a MONAI inferer: from a network's logits in each window to probabilities of the whole.

    Probabilities are blended, not logits, so that a very confident window does not outvote its neighbours.

    Args:
        roi_size: voxels of a window along x, y, z.
        overlap: share of a window that its neighbour covers too, in [0, 1).
        precision: see ``cggm_med.device``.
        exclusive: whether targets exclude one another, see ``objectives.activation``.

    Example:
        >>> half = ProbabilityInferer((8, 8, 8), overlap=0.5)(torch.zeros(1, 1, 9, 9, 9), lambda window: window)
        >>> half.shape, half.mean().item()
        (torch.Size([1, 1, 9, 9, 9]), 0.5)
    """

    def __init__(
        self, roi_size: Sequence[int], overlap: float, precision: str = "auto", *, exclusive: bool = False
    ) -> None:
        self.activation = activation(exclusive)
        self.roi_size, self.overlap, self.precision = tuple(roi_size), overlap, precision

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Probabilities ``(batch, target, x, y, z)`` of images ``(batch, modality, x, y, z)``."""
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        autocast = precision(self.precision, images.device)

        def predict(window: Tensor) -> Tensor:
            with autocast():
                logits = network(window, *args, **kwargs)
            return self.activation(require_finite(logits))

        return torch.stack([predict_volume(predict, image, self.roi_size, overlap=self.overlap) for image in images])
