"""Average symmetric surface distance (ASSD): how far two surfaces lie apart on average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt
from torch import Tensor

from cggm_med import Metric


def assd(prediction: Tensor, target: Tensor, spacing_mm: Sequence[float]) -> float:
    """Mean distance in mm of the surface voxels of both masks, ``(x, y, z)`` boolean, to the other surface."""
    predicted, true = (mask & ~binary_erosion(mask) for mask in (prediction.numpy(), target.numpy()))
    to_true = distance_transform_edt(~true, sampling=spacing_mm)[predicted]
    to_predicted = distance_transform_edt(~predicted, sampling=spacing_mm)[true]
    return float(np.concatenate([to_true, to_predicted]).mean())


ASSD = Metric(
    name="ASSD",
    key="assd_mm",
    function=assd,
    rule="mean distance of the voxels of both surfaces to the other surface, in mm",
    unit="mm",
    better="lower",
    both_empty=0.0,
    one_empty=374.0,
    digits=1,
    cropped=True,
)
