"""Removing connected components of predicted regions: those that are too small, or all but the largest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.volumes.labels import LabelConvention

LARGEST: Final = "largest"
Kept = float | Literal["largest"]  # mm3 that a component has to have, or only the largest of the region


@dataclass(frozen=True)
class ComponentFilter:
    """Which 26-connected components of each region stay in a mask; without any rule, all of them.

    Attributes:
        kept: by region, the smallest volume in mm3 that stays, or ``largest``; of other regions everything stays.

    Raises:
        ValueError: for another rule.

    Example:
        >>> convention = LabelConvention("x", {1: "core", 2: "oedema"}, {"WT": (1, 2), "TC": (1,)}, {"WT": 2, "TC": 1})
        >>> masks = np.array([[[[1, 1, 1, 0, 1]]], [[[1, 0, 0, 0, 1]]]], bool)
        >>> ComponentFilter({"WT": 2.0})(masks, convention, voxel_mm3=1.0).astype(int)[:, 0, 0].tolist()
        [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    """

    kept: Mapping[str, Kept] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for region, rule in self.kept.items():
            if rule != LARGEST and not (isinstance(rule, (int, float)) and rule > 0):
                raise ValueError(f"{region} keeps {rule!r}; expected a volume above 0 mm3, or '{LARGEST}'")

    def __call__(self, masks: NDArray[np.bool_], convention: LabelConvention, voxel_mm3: float) -> NDArray[np.bool_]:
        """The regions of the label map that is left.

        Components are those of the label map that would be written. What is removed from a region is removed from the
        regions inside it too, and becomes what the regions around it are painted.

        Args:
            masks: ``(region, x, y, z)``, in the order of the convention's regions.
            convention: says which region lies inside which, and how regions are painted.
            voxel_mm3: volume of a voxel.
        """
        masks = convention.painted(masks)
        names = list(convention.regions)
        for region in convention.paint:  # from the outermost inwards
            rule = self.kept.get(region)
            if rule is not None and (removed := Components(masks[names.index(region)], voxel_mm3).without(rule)).any():
                masks = without(masks, region, removed, convention)
        return masks

    def describe(self, regions: Sequence[str]) -> str:
        """What is removed of each region, in words.

        Example:
            >>> ComponentFilter({"WT": 100.0, "ET": "largest"}).describe(["WT", "TC", "ET"])
            'WT without components below 100 mm3; TC as predicted; ET only the largest component'
        """
        return "; ".join(f"{region} {in_words(self.kept.get(region))}" for region in regions)


EVERYTHING = ComponentFilter()  # stays


def in_words(rule: Kept | None) -> str:
    """A rule in words; None: everything stays."""
    if rule is None:
        return "as predicted"
    return "only the largest component" if rule == LARGEST else f"without components below {rule:g} mm3"


class Components:
    """The 26-connected components of one mask.

    Args:
        mask: ``(x, y, z)``.
        voxel_mm3: volume of a voxel.

    Attributes:
        mm3: volume of each.

    Example:
        >>> parts = Components(np.array([[[1, 0, 1, 1]]], bool), voxel_mm3=10.0)
        >>> parts.mm3.tolist(), parts.without(15.0).astype(int).tolist()
        ([10.0, 20.0], [[[1, 0, 0, 0]]])
    """

    def __init__(self, mask: NDArray[np.bool_], voxel_mm3: float) -> None:
        from scipy.ndimage import find_objects, label  # which a bundle has no use for unless it filters

        self._shape = mask.shape
        found = find_objects(mask.view(np.uint8))
        self._box = found[0] if found else (slice(0, 0),) * 3
        self._numbers, _ = label(mask[self._box], structure=np.ones((3, 3, 3)))
        self.mm3: NDArray[np.floating] = np.bincount(self._numbers.ravel())[1:] * voxel_mm3

    def stay(self, rule: Kept) -> NDArray[np.bool_]:
        """Of each component, whether it stays; where several are the largest, all of them.

        The last bits of a voxel's volume, which depend on how it was computed, decide nothing.
        """
        least = self.mm3.max(initial=0.0) if rule == LARGEST else float(rule)
        return self.mm3 >= least * (1 - 1e-6)

    def without(self, rule: Kept) -> NDArray[np.bool_]:
        """Voxels ``(x, y, z)`` of the components that do not stay."""
        removed = np.zeros(self._shape, bool)
        removed[self._box] = np.concatenate([[False], ~self.stay(rule)])[self._numbers]
        return removed


def inside(region: str, convention: LabelConvention) -> list[str]:
    """The regions all of whose labels are labels of another one, besides itself."""
    labels = set(convention.regions[region])
    return [name for name, own in convention.regions.items() if set(own) < labels]


def without(
    masks: NDArray[np.bool_], region: str, removed: NDArray[np.bool_], convention: LabelConvention
) -> NDArray[np.bool_]:
    """Masks ``(region, x, y, z)`` that lost voxels of one region, and of those inside it, painted anew."""
    lose = [name in (region, *inside(region, convention)) for name in convention.regions]
    return convention.painted(masks & ~(np.array(lose)[:, None, None, None] & removed))
