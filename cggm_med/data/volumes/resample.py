"""Bringing the images of a case onto one grid, with SimpleITK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.cases import Case
from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.volumes.background import background_value
from cggm_med.data.volumes.checks import Inspection, inspect
from cggm_med.data.volumes.grids import same_grid
from cggm_med.data.volumes.itk_formats import place
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.errors import DataError

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813 - as everybody calls it

MIN_COVERED = 0.5  # of a grid that an image is resampled to; with less, something is wrong


def resample_onto(
    volume: NDArray[np.float32],
    affine: NDArray[np.float64],
    shape: Sequence[int],
    onto: NDArray[np.float64],
    *,
    outside: float,
) -> tuple[NDArray[np.float32], float]:
    """Linear interpolation at the voxels of another grid; nothing is registered, the affines are taken at their word.

    Args:
        volume: ``(x, y, z)``.
        affine: of it, voxels to mm in RAS+.
        shape: of the other grid.
        onto: affine of the other grid.
        outside: value where the volume does not reach.

    Returns:
        ``(x, y, z)`` on the other grid, and the share of its voxels that the volume reaches.

    Example:
        >>> volume = np.arange(8, dtype=np.float32).reshape(8, 1, 1).repeat(2, 1).repeat(2, 2)
        >>> half = np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        >>> moved, covered = resample_onto(volume, np.eye(4), (4, 2, 2), half, outside=0)
        >>> moved[:, 0, 0].tolist(), covered
        ([0.5, 1.5, 2.5, 3.5], 1.0)
    """
    import SimpleITK as sitk  # noqa: N813 - as everybody calls it

    image, grid = _image(volume, affine), _grid(shape, onto)
    moved = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, float(outside), sitk.sitkFloat32)
    everywhere = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    everywhere.CopyInformation(image)
    reached = sitk.Resample(everywhere, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(moved).T, float(sitk.GetArrayViewFromImage(reached).mean())


@dataclass(frozen=True)
class OneGrid:
    """The content of a case on one grid.

    Attributes:
        volumes: ``(x, y, z)`` by modality, and label maps by their role; on the grid.
        affines: of the same, voxels to mm in RAS+, which are one but for the tolerance of ``checks``.
        role: modality that has this grid, or a label map.
        resampled: what had another.
        findings: images that do not reach all of it; the rest counts as their background.
        label_grid: ``affine`` and ``shape`` of the labels' own grid, if they were resampled.
    """

    volumes: Mapping[str, NDArray[Any]]
    affines: Mapping[str, NDArray[np.float64]]
    role: str
    resampled: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    label_grid: Mapping[str, Any] | None = None


def read_on_one_grid(
    case: Case, convention: LabelConvention | None, reference: str | None
) -> tuple[Inspection, OneGrid | None]:
    """Read and check a case; where its grids differ, bring everything onto the grid of the reference modality.

    A case that lacks this modality is brought onto the grid of its label, or without one, of its first image.

    Args:
        case: its files.
        convention: see ``inspect``.
        reference: modality; None: differing grids are a problem.

    Returns:
        What was read; and the same on one grid, None if there are problems.

    Raises:
        DataError: see ``onto_grid``.
    """
    found = inspect(case, convention)
    if not found.problems:
        return found, OneGrid(found.volumes, found.affines, next(iter(found.affines)))
    if reference is None or len(found.problems) > len(found.differing):
        return found, None
    roles = [role for role in (reference, *case.labels, *found.volumes) if role in found.volumes]
    return found, onto_grid(case, found, roles[0], found.volumes[roles[0]].shape, found.affines[roles[0]])


def no_reference(case: str, scan: OneGrid, reference: str | None) -> list[Finding]:
    """The finding that images were brought onto another grid than the reference modality's, which the case lacks."""
    if not scan.resampled or scan.role == reference:
        return []
    seen = f"is absent, so that the other images are on the grid of {scan.role}"
    return [Finding(KINDS["no_reference"], case, (str(reference),), seen)]


def onto_grid(case: Case, found: Inspection, role: str, shape: Sequence[int], affine: NDArray[np.float64]) -> OneGrid:
    """Bring what was read of a case onto a grid: images by linear interpolation, labels by nearest neighbour.

    Args:
        case: which label maps it has.
        found: volumes that may lie on different grids.
        role: what has the grid.
        shape: of the grid.
        affine: of the grid, voxels to mm in RAS+.

    Raises:
        DataError: if an image covers less than half of the grid, or more than half of what is labelled lies outside,
            neither of which can be meant; or if readers drew on different grids.
    """
    own_grid: tuple[NDArray[np.float64], tuple[int, ...]] | None = None
    for name in case.labels:
        labels_grid = found.affines[name], found.volumes[name].shape
        own_grid = own_grid or labels_grid
        if not same_grid(*own_grid, *labels_grid):
            raise DataError(f"{case.id}: its label maps lie on different grids; bring them onto one to score them")
    volumes, affines = dict(found.volumes), dict(found.affines)
    resampled: list[str] = []
    findings: list[Finding] = []
    for name, volume in found.volumes.items():
        own = found.affines[name]
        if same_grid(affine, tuple(shape), own, volume.shape):
            continue
        resampled.append(name)
        affines[name] = affine
        if name in case.labels:
            volumes[name], covered = _labels_onto(volume, own, shape, affine)
            covers = f"has {covered:.0%} of its labelled voxels on the grid of {role}"
        else:
            background = background_value(volume)
            outside = float(volume.min()) if background is None else background
            volumes[name], covered = resample_onto(volume, own, shape, affine, outside=outside)
            covers = f"covers {covered:.0%} of the grid of {role}"
        if covered < MIN_COVERED:
            raise DataError(
                f"{case.id}: {name} {covers}, expected at least {MIN_COVERED:.0%}; do both show the same part of the "
                "same patient?"
            )
        if covered < 0.99:
            findings.append(Finding(KINDS["partly_covered"], case.id, (name,), covers))
    label_grid = None
    if own_grid is not None and not case.labels.keys().isdisjoint(resampled):
        label_grid = {"affine": own_grid[0].tolist(), "shape": list(own_grid[1])}
    return OneGrid(volumes, affines, role, tuple(resampled), tuple(findings), label_grid)


def _labels_onto(
    labels: NDArray[Any], affine: NDArray[np.float64], shape: Sequence[int], onto: NDArray[np.float64]
) -> tuple[NDArray[Any], float]:
    """Labels at the nearest voxels of another grid, 0 outside; and the share of the labelled voxels on that grid.

    A label map may well be smaller than the image: tools crop it to what is labelled.
    """
    import SimpleITK as sitk  # noqa: N813 - as everybody calls it

    moved = sitk.Resample(_image(labels, affine), _grid(shape, onto), sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    places = np.argwhere(labels)
    to_grid = np.linalg.inv(onto) @ affine
    voxels = places @ to_grid[:3, :3].T + to_grid[:3, 3]
    inside = ((voxels > -0.5) & (voxels < np.array(shape) - 0.5)).all(axis=1)
    return sitk.GetArrayFromImage(moved).T, float(inside.mean()) if len(places) else 1.0


def _image(volume: NDArray[Any], affine: NDArray[np.float64]) -> sitk.Image:
    import SimpleITK as sitk  # noqa: N813 - as everybody calls it

    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))
    place(image, affine)
    return image


def _grid(shape: Sequence[int], affine: NDArray[np.float64]) -> sitk.Image:
    import SimpleITK as sitk  # noqa: N813 - as everybody calls it

    grid = sitk.Image([int(n) for n in shape], sitk.sitkUInt8)
    place(grid, affine)
    return grid
