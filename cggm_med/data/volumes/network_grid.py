"""From a scan as it is stored to what a network sees, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.data.volumes.background import background_of, bounding_box, foreground_of
from cggm_med.data.volumes.normalise import Rescaling
from cggm_med.data.volumes.spacing import Spacing, resampling

if TYPE_CHECKING:
    from monai.data import MetaTensor

Affine = Sequence[Sequence[float]]
_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True)
class NativeGrid:
    """The grid of a case's own files, and the way back to it from what preprocessing made of them.

    Attributes:
        affine: of the files, voxels to mm in RAS+.
        oriented_shape: after turning to RAS+.
        crop_start, crop_stop: what was cut out of that.
        cropped_affine: of what was cut out.
        prepared_affine: of that after resampling.
        foreground: ``(x, y, z)`` of what was cut out: where the images show something, see ``foreground_of``.
    """

    affine: Affine
    oriented_shape: Sequence[int]
    crop_start: Sequence[int]
    crop_stop: Sequence[int]
    cropped_affine: Affine
    prepared_affine: Affine
    foreground: NDArray[np.bool_] = field(compare=False)

    @classmethod
    def whole(cls, affine: NDArray[np.float64], shape: Sequence[int]) -> NativeGrid:
        """A grid from which nothing is cropped.

        Example:
            >>> NativeGrid.whole(np.diag([-1.0, 1, 2, 1]), (4, 5, 6)).shape
            (4, 5, 6)
        """
        to_ras = nib.orientations.io_orientation(affine)
        oriented = np.empty(len(shape), int)
        oriented[to_ras[:, 0].astype(int)] = shape
        turned = (affine @ nib.orientations.inv_ornt_aff(to_ras, shape)).tolist()
        stop = oriented.tolist()
        return cls(affine.tolist(), stop, [0] * len(stop), stop, turned, turned, np.ones(stop, dtype=bool))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the files' volumes."""
        axes = nib.orientations.io_orientation(np.array(self.affine))[:, 0].astype(int)
        return tuple(int(self.oriented_shape[axis]) for axis in axes)

    @property
    def facts(self) -> dict[str, Any]:
        """Everything but the foreground, as plain values."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "foreground"}

    @property
    def spacing(self) -> Spacing:
        """Voxel size in mm, along the grid's own axes."""
        x, y, z = np.linalg.norm(np.array(self.affine)[:3, :3], axis=0).tolist()
        return (x, y, z)

    def to_native(self, volume: Tensor) -> NDArray[np.float32]:
        """Bring ``(channel, x, y, z)`` from the preprocessed grid to the case's own grid and orientation.

        Resampling is undone by linear interpolation; voxels outside the foreground, cropped away or not, become 0; axes
        are turned back exactly.
        """
        return np.stack([self.uncropped(channel) for channel in self.resampled_back(volume)])

    def resampled_back(self, volume: Tensor) -> NDArray[np.float32]:
        """The first half of the way: ``(channel, x, y, z)`` at the case's own voxel size, still cropped.

        Nothing is left of what lies outside the foreground, which is exact, since it never left this grid.
        """
        cropped = [stop - start for start, stop in zip(self.crop_start, self.crop_stop, strict=True)]
        if list(volume.shape[1:]) != cropped:
            from monai.data import MetaTensor
            from monai.transforms import SpatialResample

            resample = SpatialResample(mode="bilinear", padding_mode="border")
            image = MetaTensor(volume, affine=torch.tensor(self.prepared_affine, dtype=torch.float64))
            volume = resample(image, dst_affine=torch.tensor(self.cropped_affine), spatial_size=cropped).as_tensor()
        back: NDArray[np.float32] = np.where(self.foreground, volume.cpu().numpy(), np.float32(0))
        return back

    def uncropped(self, channel: NDArray[_T]) -> NDArray[_T]:
        """The second half: ``(x, y, z)`` on the whole of the case's own grid, 0 where it was cropped away."""
        oriented = np.zeros(self.oriented_shape, dtype=channel.dtype)
        oriented[tuple(slice(a, b) for a, b in zip(self.crop_start, self.crop_stop, strict=True))] = channel
        native = nib.orientations.io_orientation(np.array(self.affine))
        back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), native)
        return np.asarray(nib.orientations.apply_orientation(oriented, back))

    def cropped(self, volume: NDArray[_T]) -> NDArray[_T]:
        """The inverse of ``uncropped``, inside the crop: of ``(x, y, z)`` on the whole of the case's own grid."""
        to_ras = nib.orientations.io_orientation(np.array(self.affine))
        window = tuple(slice(a, b) for a, b in zip(self.crop_start, self.crop_stop, strict=True))
        return np.asarray(nib.orientations.apply_orientation(volume, to_ras)[window])


def to_network(
    channels: Sequence[NDArray[np.float32]],
    affine: NDArray[np.float64],
    spacing: Spacing | None,
    target: NDArray[Any] | None = None,
    *,
    rescalings: Sequence[Rescaling | None] = (),
) -> tuple[dict[str, MetaTensor], NativeGrid, list[float | None]]:
    """What a network sees of a case.

    Subtract each modality's constant background, so that it is exactly 0; reorient to RAS+; crop to the foreground of
    any modality, see ``foreground_of``; z-score each modality inside those voxels; resample to a common spacing if one
    is given and the voxels do not have it. A modality with a rescaling is changed by that alone.

    Args:
        channels: a volume ``(x, y, z)`` for each modality, on one grid.
        affine: of the grid, voxels to mm in RAS+.
        spacing: voxel size in mm along right, anterior, superior; None to keep the scan's own.
        target: ``(region, x, y, z)`` on the same grid, if there is one.
        rescalings: of each modality, None where it is z-scored; default: of all.

    Returns:
        ``image`` ``(modality, x, y, z)`` and perhaps ``target``; the way back; and each modality's background, None
        where there is none.
    """
    from monai.data import MetaTensor
    from monai.transforms import NormalizeIntensity, Spacingd

    rescalings = rescalings or [None] * len(channels)
    backgrounds = [background_of(*pair) for pair in zip(channels, rescalings, strict=True)]
    to_ras = nib.orientations.io_orientation(affine)
    # Turned volumes are views of the given ones; what is copied is only what lies inside the crop.
    turned = [nib.orientations.apply_orientation(channel, to_ras) for channel in channels]
    shape = turned[0].shape
    foreground = np.zeros(shape, dtype=bool)
    for channel, background in zip(turned, backgrounds, strict=True):
        foreground |= foreground_of(channel, background)
    start, stop = bounding_box(foreground)
    window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    image = np.empty((len(channels), *(b - a for a, b in zip(start, stop, strict=True))), dtype=np.float32)
    z_score = NormalizeIntensity(nonzero=True, channel_wise=True)
    for i, (channel, background, rescaling) in enumerate(zip(turned, backgrounds, rescalings, strict=True)):
        if rescaling is None:
            np.subtract(channel[window], np.float32(background or 0), out=image[i])
            image[i : i + 1] = z_score(torch.from_numpy(image[i : i + 1])).as_tensor().numpy()
        else:
            image[i] = rescaling(channel[window])
    oriented_affine = affine @ nib.orientations.inv_ornt_aff(to_ras, channels[0].shape)
    cropped_affine = oriented_affine @ from_matvec(np.eye(3), start)
    space = torch.from_numpy(cropped_affine)
    moved = {"image": MetaTensor(torch.from_numpy(image), affine=space)}
    if target is not None:
        regions = [nib.orientations.apply_orientation(region, to_ras)[window] for region in target]
        moved["target"] = MetaTensor(torch.from_numpy(_numbers(np.stack(regions))), affine=space)
    if (size := resampling(affine, spacing)) is not None:
        modes = ["nearest" if key == "target" else "bilinear" for key in moved]
        moved = Spacingd(tuple(moved), pixdim=size, mode=modes, padding_mode="border")(moved)
    grid = NativeGrid(
        affine=affine.tolist(),
        oriented_shape=list(shape),
        crop_start=start,
        crop_stop=stop,
        cropped_affine=cropped_affine.tolist(),
        prepared_affine=moved["image"].affine.tolist(),
        foreground=foreground[window].copy(),
    )
    return moved, grid, backgrounds


def _numbers(masks: NDArray[Any]) -> NDArray[Any]:
    return masks.view(np.uint8) if masks.dtype == bool else masks
