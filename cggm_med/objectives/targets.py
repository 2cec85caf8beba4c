"""Targets of a loss: the marks of what nobody annotated or does not exist, and voxels on a coarser grid.

Nothing but torch is imported here, since data are checked and settings read with these marks before any network is.
"""

from __future__ import annotations

from torch import Tensor

UNKNOWN = 255  # target of a region at a voxel that nobody annotated
IGNORED = -100  # target of a position that does not exist, such as after the end of a dialogue


def subsample(target: Tensor, logits: Tensor) -> Tensor:
    """Every n-th voxel of ``target`` so that it lies on the grid of ``logits``.

    Raises:
        ValueError: if an axis of the target is not a whole multiple of the logits' axis.
    """
    fine, coarse = target.shape[2:], logits.shape[2:]
    if any(f % c for f, c in zip(fine, coarse, strict=True)):
        raise ValueError(f"target grid {tuple(fine)} is not a whole multiple of the logits' grid {tuple(coarse)}")
    for axis, (f, c) in enumerate(zip(fine, coarse, strict=True), start=2):
        target = target[(slice(None),) * axis + (slice(None, None, f // c),)]
    return target
