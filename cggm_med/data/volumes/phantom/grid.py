"""The voxels of a phantom: positions in the head, random fields, and shapes as depths below a surface in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

Volume = NDArray[np.floating[Any]]  # float32 wherever it is large

# The head of BraTS: a brain of about 130 x 165 x 145 mm in a field of view of 240 x 240 x 155 mm.
FIELD_OF_VIEW_MM = (240.0, 240.0, 155.0)


@dataclass(frozen=True)
class Grid:
    """The voxels in the head: ``position`` (axis, x, y, z) and edge in mm, ``frequency`` of a real FFT in 1/mm.

    Coordinates are mm from the centre of the head, x to the left, y to the back, z up (LPS, as in BraTS).
    """

    position: Volume
    frequency: Volume
    voxel: float

    @classmethod
    def of(cls, shape: tuple[int, int, int], spacing_mm: float) -> Grid:
        """The grid of a scan; in a field of view smaller than that of BraTS the whole head shrinks."""
        shrunk = min(1.0, *(n * spacing_mm / extent for n, extent in zip(shape, FIELD_OF_VIEW_MM, strict=True)))
        voxel = spacing_mm / shrunk
        axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * voxel for n in shape]
        waves = [np.fft.fftfreq(shape[0], voxel), np.fft.fftfreq(shape[1], voxel), np.fft.rfftfreq(shape[2], voxel)]
        frequency = np.sqrt((np.stack(np.meshgrid(*waves, indexing="ij")) ** 2).sum(0)).astype(np.float32)
        return cls(np.stack(np.meshgrid(*axes, indexing="ij")), frequency, voxel)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along x, y, z."""
        return self.position.shape[1:]

    def field(self, rng: np.random.Generator, wavelength: float) -> Volume:
        """A smooth random field of mean 0 and deviation 1 whose waves are about ``wavelength`` mm long."""
        return self._random(rng, np.exp(-0.5 * ((self.frequency * wavelength - 1) / 0.35) ** 2))

    def texture(self, rng: np.random.Generator, length: float) -> Volume:
        """A random field of mean 0 and deviation 1 whose correlation falls by a factor of e every ``length`` mm."""
        return self._random(rng, 1 / (1 + (2 * np.pi * self.frequency * length) ** 2))

    def _random(self, rng: np.random.Generator, gain: Volume) -> Volume:
        waves = rng.standard_normal((*gain.shape, 2), dtype=np.float32).view(np.complex64)[..., 0] * gain
        waves[0, 0, 0] = 0
        field = fft.irfftn(waves, s=self.shape)
        return (field / field.std()).astype(np.float32)

    def sample(self, field: Volume, position: Volume) -> Volume:
        """``field`` read at each ``position`` (axis, x, y, z), trilinear."""
        # grid_sample wants coordinates from -1 to 1, in the last axis, the fastest one first.
        points = np.moveaxis((position / self.position[:, -1:, -1:, -1:])[::-1], 0, -1).astype(np.float32)
        volume, where = torch.from_numpy(field)[None, None], torch.from_numpy(points)[None]
        read = torch.nn.functional.grid_sample(volume, where, padding_mode="border", align_corners=True)
        return read[0, 0].numpy()

    def share(self, depth: Volume, edge: float = 0.0) -> Volume:
        """How much of each voxel has a positive ``depth`` (mm), with edges blurred over a voxel or ``edge`` mm."""
        return np.clip(depth / max(edge, self.voxel) + 0.5, 0, 1)


def ellipsoid(offset: Sequence[Volume] | Volume, axes: Sequence[float] | NDArray[np.float64]) -> Volume:
    """Signed depth in mm below the surface of an ellipsoid, positive inside; exact to first order at the surface."""
    square = sum((u / np.float32(a)) ** 2 for u, a in zip(offset, axes, strict=True)) + np.float32(1e-4)
    slope = np.sqrt(sum((u / np.float32(a**2)) ** 2 for u, a in zip(offset, axes, strict=True)) + np.float32(1e-6))
    return (np.sqrt(square) - square) / slope
