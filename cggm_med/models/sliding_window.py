"""Predicting a whole volume from overlapping windows."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cggm_med.errors import DataError, NonFiniteLoss
from cggm_med.models.cpu_convolution import FastConvolutions


def predict_volume(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    patch_size: Sequence[int],
    *,
    overlap: float,
    batch_size: int | None = None,
) -> Tensor:
    """Predict a whole volume from overlapping patches, blended with Gaussian weights.

    The inverse of cutting patches: a ``predict`` that copies its input returns the volume. If memory is short, fewer
    patches are predicted at once, and as a last resort the volume is assembled in CPU memory instead of the GPU's; a
    warning says so, since sums in another order differ in their last bits.

    Args:
        predict: maps ``(patch, modality, x, y, z)`` to ``(patch, channel, x, y, z)``.
        image: ``(modality, x, y, z)``.
        patch_size: voxels along x, y, z.
        overlap: share of a patch that its neighbour covers too, in [0, 1).
        batch_size: patches predicted at once; default: see ``windows_at_once``.

    Returns:
        ``(channel, x, y, z)``, on the CPU if it was assembled there.

    Raises:
        DataError: if not even one patch at a time fits into memory.
    """
    from monai.inferers import sliding_window_inference

    ways = _ways(batch_size or windows_at_once(image.device), image.device)
    for way, (size, device) in enumerate(ways):
        # Until the error is handled, the failed attempt holds memory; so the next one starts outside this block.
        with contextlib.suppress(torch.OutOfMemoryError), FastConvolutions():
            volume: Tensor = sliding_window_inference(
                image[None],
                tuple(patch_size),
                size,
                predict,
                overlap=overlap,
                mode="gaussian",
                sw_device=image.device,
                device=device,
            )
            return volume[0]
        if image.device.type == "cuda":
            torch.cuda.empty_cache()
        if way + 1 < len(ways):
            size, device = ways[way + 1]
            warnings.warn(f"memory is short: now {size} window(s) at once, put together on {device}", stacklevel=2)
    window = " x ".join(map(str, patch_size))
    raise DataError(
        f"one window of {window} voxels does not fit into the memory of {image.device}; try the CPU, with --device cpu "
        "where the command has it, else with --set train.device=cpu"
    )


def windows_at_once(device: torch.device) -> int:
    """Number of windows to predict at once: several keep a GPU busy; one is enough for a CPU and takes least memory."""
    return 1 if device.type == "cpu" else 4


def window_count(shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> int:
    """Number of windows that ``predict_volume`` needs.

    Args:
        shape: voxels of the volume along x, y, z.
        patch_size: of a window.
        overlap: share of a window that its neighbour covers too.

    Example:
        >>> window_count((150, 190, 140), (96, 96, 96), 0.5)
        18
    """
    count = 1
    for n, patch in zip(shape, patch_size, strict=True):
        step = max(1, int(patch * (1 - overlap)))
        count *= 1 + math.ceil(max(0, n - patch) / step)
    return count


def _ways(batch_size: int, device: torch.device) -> list[tuple[int, torch.device]]:
    """Windows at once and where to assemble them, each taking less memory than the one before."""
    sizes = [batch_size]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    ways = [(size, device) for size in sizes]
    return ways if device.type == "cpu" else [*ways, (1, torch.device("cpu"))]


def require_finite(logits: Tensor) -> Tensor:
    """The logits of a window, which else would become an empty mask, or a full one, without a word.

    Raises:
        NonFiniteLoss: if any is NaN or infinite.

    Example:
        >>> require_finite(torch.tensor([float("nan")]))
        Traceback (most recent call last):
        cggm_med.errors.NonFiniteLoss: the prediction is NaN or infinite; look at the images and at the weights, or...
    """
    if not torch.isfinite(logits).all():
        raise NonFiniteLoss(
            "the prediction is NaN or infinite; look at the images and at the weights, or train with a lower optim.lr "
            "or train.precision=float32"
        )
    return logits
