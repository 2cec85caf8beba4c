"""From a scan as it is stored to what a network sees, and back, as MONAI dictionary transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import MapTransform

from cggm_med.data.volumes.components import ComponentFilter, Kept
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.data.volumes.network_grid import NativeGrid, to_network
from cggm_med.data.volumes.normalise import Rescaling
from cggm_med.errors import DataError

HELD = "modalities"  # of a sample: names of the channels of its image, where it lacks some
GRID = "native_grid"  # where a prepared image's metadata keep the way back
READ = "how_read"  # where a loaded image's metadata say how it was read, see ``monai_reader.how_read``


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


def _name(image: MetaTensor) -> str:
    return str(image.meta.get("filename_or_obj", "the image"))
