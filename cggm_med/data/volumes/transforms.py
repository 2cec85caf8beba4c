"""From a scan as it is stored to what a network sees, and back: MONAI dictionary transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import MapTransform, NormalizeIntensity, Spacingd, SpatialResample
from nibabel.affines import from_matvec, voxel_sizes
from numpy.typing import NDArray
from torch import Tensor

from cggm_med.data.volumes.components import ComponentFilter, Kept
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.normalise import Rescaling
from cggm_med.errors import DataError

Affine = Sequence[Sequence[float]]
Spacing = tuple[float, float, float]
HELD = "modalities"  # of a sample: names of the channels of its image, where it lacks some
GRID = "native_grid"  # where a prepared image's metadata keep the way back
READ = "how_read"  # where a loaded image's metadata say how it was read, see ``monai_reader.how_read``
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


class PrepareScand(MapTransform):
    """``to_network`` for a loaded image; the way back travels in the image's metadata.

    A sample that lacks modalities names those of its image under ``HELD``, joined by ``+``; the result then has
    channels of NaN for the others, which ``StackedModalities`` takes for absent.

    Args:
        keys: of images ``(modality, x, y, z)``.
        modalities: what the channels show, in order.
        spacing: see ``to_network``.
        rescaling: numbers of each modality that is not z-scored, see ``normalise.Rescaling``.

    Example:
        >>> scan = MetaTensor(torch.rand(1, 4, 4, 4), affine=torch.eye(4))
        >>> PrepareScand("image", modalities=["flair"])({"image": scan})["image"].shape
        torch.Size([1, 4, 4, 4])
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        modalities: Sequence[str],
        spacing: Sequence[float] | None = None,
        rescaling: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        super().__init__(keys)
        self.modalities, self.spacing = tuple(modalities), spacing
        self.rescalings = {m: Rescaling(**numbers) for m, numbers in (rescaling or {}).items()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its images prepared.

        Raises:
            DataError: if an image has another number of channels or voxels that are not finite.
        """
        changed = dict(data)
        for key in self.key_iterator(changed):
            image = changed[key]
            held = changed[HELD].split("+") if HELD in changed else self.modalities
            if image.ndim != 4 or len(image) != len(held):
                raise DataError(
                    f"'{key}' has shape {tuple(image.shape)}; expected (channel, x, y, z) with the channels "
                    f"{', '.join(held)}: one file each in this order, or one file with all of them"
                )
            if not torch.isfinite(image).all():
                raise DataError(f"'{key}' has voxels that are not finite; fix or leave out {_name(image)}")
            spacing = None if self.spacing is None else (self.spacing[0], self.spacing[1], self.spacing[2])
            affine = image.affine.numpy().astype(np.float64)
            channels, rescalings = image.as_tensor().float().numpy(), [self.rescalings.get(m) for m in held]
            moved, grid, _ = to_network(channels, affine, spacing, rescalings=rescalings)
            prepared = moved["image"]
            if HELD in changed:
                whole = torch.full((len(self.modalities), *prepared.shape[1:]), torch.nan)
                whole[[self.modalities.index(m) for m in held]] = prepared.as_tensor()
                prepared = MetaTensor(whole, affine=prepared.affine)
            # Arrays, because these are what a data loader stacks and takes apart without changing them.
            way_back = {name: np.array(value) for name, value in grid.facts.items()} | {"foreground": grid.foreground}
            changed[key] = MetaTensor(
                prepared.as_tensor(), meta={**image.meta, "affine": prepared.affine, GRID: way_back}
            )
        return changed


class ToNativeGridd(MapTransform):
    """Bring what a network predicted of a prepared image back to the grid of the image's file.

    Args:
        keys: of predictions ``(channel, x, y, z)``.
        source: key of the prepared image.
        case: key of the case's name, after which the result's file is to be called; where there is no such key, it is
            called after the image's file.
    """

    def __init__(self, keys: Hashable | Sequence[Hashable], source: str = "image", case: str = "case") -> None:
        super().__init__(keys)
        self.source, self.case = source, case

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with its predictions on the native grid."""
        changed = dict(data)
        meta = dict(changed[self.source].meta)
        way_back = meta.pop(GRID)
        foreground = np.asarray(way_back.pop("foreground"), dtype=bool)
        grid = NativeGrid(**{k: np.asarray(value).tolist() for k, value in way_back.items()}, foreground=foreground)
        if self.case in changed:
            meta["filename_or_obj"] = f"{changed[self.case]}.nii.gz"
        meta["affine"] = torch.tensor(grid.affine, dtype=torch.float64)
        for key in self.key_iterator(changed):
            volume = changed[key]
            volume = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
            changed[key] = MetaTensor(torch.from_numpy(grid.to_native(volume)), meta=dict(meta))
        return changed


def convention_of(parts: Mapping[str, Any]) -> LabelConvention:
    """A label convention from plain values; the keys of ``meanings`` may be text, as JSON has it."""
    return LabelConvention(
        name=parts["name"],
        meanings={int(label): meaning for label, meaning in parts["meanings"].items()},
        regions={region: tuple(labels) for region, labels in parts["regions"].items()},
        paint=dict(parts["paint"]),
        exclusive=parts.get("exclusive", False),
        ignore=parts.get("ignore"),
    )


class _ByConvention(MapTransform):
    """Base of the two directions between labels and regions; takes a convention as the plain values of its parts."""

    def __init__(self, keys: Hashable | Sequence[Hashable], convention: Mapping[str, Any]) -> None:
        super().__init__(keys)
        self.convention = convention_of(convention)


class RegionsToLabelsd(_ByConvention):
    """Probabilities of regions ``(region, x, y, z)`` to label numbers ``(1, x, y, z)``, see ``LabelConvention.chosen``.

    Args:
        keys: of probabilities.
        convention: the parts of a ``LabelConvention``, where the keys of ``meanings`` may be text, as JSON has it.
        components: which components of the regions stay, see ``ComponentFilter``; default: all of them.
    """

    def __init__(
        self,
        keys: Hashable | Sequence[Hashable],
        convention: Mapping[str, Any],
        components: Mapping[str, Kept] | None = None,
    ) -> None:
        super().__init__(keys, convention)
        self.components = ComponentFilter(components or {})

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with labels in place of probabilities."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            volume = changed[key]
            masks = self.convention.chosen(volume.as_tensor().numpy())
            if self.components.kept:
                voxel_mm3 = abs(float(np.linalg.det(volume.affine.numpy()[:3, :3])))
                masks = self.components(masks, self.convention, voxel_mm3)
            labels = self.convention.to_labels(masks)
            changed[key] = MetaTensor(torch.from_numpy(labels)[None], meta=volume.meta)
        return changed


class LabelsToRegionsd(_ByConvention):
    """Label numbers ``(1, x, y, z)`` to masks of regions ``(region, x, y, z)`` of 0 and 1.

    Args:
        keys: of labels.
        convention: see ``RegionsToLabelsd``.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The sample with regions in place of labels.

        Raises:
            DataError: for a label that the convention does not declare.
        """
        changed = dict(data)
        for key in self.key_iterator(changed):
            volume = changed[key]
            labels = volume.as_tensor().numpy()[0]
            if strange := self.convention.undeclared(labels):
                raise DataError(f"{_name(volume)} has labels {strange}; expected {self.convention.describe()}")
            regions = torch.from_numpy(self.convention.to_regions(labels).astype(np.float32))
            changed[key] = MetaTensor(regions, meta=volume.meta)
        return changed


class SameGridWriter(NibabelWriter):
    """MONAI's writer of NIfTI files without its resampling, for volumes that lie on the grid of their file already.

    On its way through the resampling, MONAI 1.6 takes a volume for a stack of slices, and fails for scans whose slices
    are sagittal or coronal.
    """

    @classmethod
    def resample_if_needed(cls, data_array: Any, affine: Any = None, **options: Any) -> tuple[Any, Any]:
        """Both as they are."""
        return data_array, affine


def background_value(image: NDArray[Any]) -> float | None:
    """The constant that surrounds the brain: the value of most voxels on the six faces of the volume.

    It is 0 in raw BraTS files and another number in copies that were normalised. None if no single value covers half
    of the faces; such an image is normalised over all its voxels.

    Example:
        >>> volume = np.full((8, 8, 8), -3.5)
        >>> volume[2:6, 2:6, 2:6] = 1
        >>> background_value(volume)
        -3.5
    """
    faces = np.concatenate([image[index].ravel() for axis in range(3) for index in _ends(axis)])
    values, counts = np.unique(faces, return_counts=True)
    most = int(counts.argmax())
    return float(values[most]) if counts[most] * 2 >= len(faces) else None


def background_of(image: NDArray[Any], rescaling: Rescaling | None) -> float | None:
    """The value of background of a modality, None if it has none.

    It is 0 where 0 is kept: no uptake, no diffusion. Else it is the constant around the body, which a CT may not have:
    air is not taken for background, since lungs are filled with it.
    """
    return 0.0 if rescaling is not None and rescaling.keeps_zero else background_value(image)


def foreground_of(image: NDArray[Any], background: float | None) -> NDArray[np.bool_]:
    """The voxels of an image that differ from its constant background; all of them where it has none.

    Example:
        >>> volume = np.zeros((3, 3, 3))
        >>> volume[1, 1, 1] = 7
        >>> [int(foreground_of(volume, background).sum()) for background in (background_value(volume), None)]
        [1, 27]
    """
    if background is None:
        return np.ones(image.shape, dtype=bool)
    return np.asarray(image != image.dtype.type(background))


def resampling(affine: NDArray[np.float64], spacing: Spacing | None) -> Spacing | None:
    """The spacing to resample to; None if there is none or the voxels have that size already.

    Example:
        >>> resampling(np.diag([1.0, 1.0, 2.0, 1.0]), (1.0, 1.0, 1.0))
        (1.0, 1.0, 1.0)
        >>> resampling(np.eye(4), (1.0, 1.0, 1.0)) is None
        True
    """
    if spacing is None or np.allclose(spacing_along_axes(affine), spacing, rtol=0.01):
        return None
    return spacing


def spacing_along_axes(affine: NDArray[np.float64]) -> Spacing:
    """Voxel size in mm along right, anterior and superior, whatever the order of the array's axes.

    Example:
        >>> spacing_along_axes(np.array([[0, 0, 2.0, 0], [3, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]]))
        (2.0, 3.0, 1.0)
    """
    axes = nib.orientations.io_orientation(affine)[:, 0].astype(int)
    x, y, z = (float(size) for _, size in sorted(zip(axes, voxel_sizes(affine), strict=True)))
    return (x, y, z)


def bounding_box(mask: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """First voxel and the one after the last, along each axis, of those that are True.

    Example:
        >>> volume = np.zeros((8, 8, 8), bool)
        >>> volume[2:6, 3:5, 4] = True
        >>> bounding_box(volume)
        ([2, 3, 4], [6, 5, 5])
    """
    start, stop = [], []
    for axis in range(3):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        start.append(int(found[0]))
        stop.append(int(found[-1]) + 1)
    return start, stop


def _ends(axis: int) -> tuple[Any, Any]:
    before: tuple[Any, ...] = (slice(None),) * axis
    return (*before, 0), (*before, -1)


def _name(image: MetaTensor) -> str:
    return str(image.meta.get("filename_or_obj", "the image"))
