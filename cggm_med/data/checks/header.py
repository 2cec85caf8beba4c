"""What the header of an image says, held against itself: unit, sform, qform, voxel size, and length of the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.kinds import KINDS

MM: dict[str, float] = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"), 0.001),
}
NIFTI_UNITS = {1: "metre", 2: "mm", 3: "um"}  # of xyzt_units; nifti1.h, https://nifti.nimh.nih.gov/nifti-1
# Headers in single precision, and tools that round to a hundredth of a millimetre, stay below this.
MAX_SIZE_ERROR = 0.01
MAX_SHIFT_VOXELS = 0.05  # of any corner, as between the images of a case
# A quaternion that is longer than 1 by more is no rounded rotation.
MAX_LONGER = 1e-3
# The longest side of a scan. The shortest of a person that is published are crops of 40 mm around a hippocampus; a head
# whose unit is wrong by ten has 26 mm. The longest are CT of the whole body.
MIN_SIDE_MM, MAX_SIDE_MM = 30.0, 3000.0
# Thick slices of body CT have 20 mm; SPECT has cubes of up to 10 mm.
MAX_EDGE_MM, MAX_CUBE_MM = 30.0, 10.0


@dataclass(frozen=True)
class Reconciled:
    """A header whose fields were held against one another.

    Attributes:
        affine: voxels to mm in RAS+.
        spacing: voxel size in mm along x, y, z as the header states it, whether or not it makes sense.
        oriented: whether the header says where the axes point.
        findings: what was seen, of no case and no role yet.
    """

    affine: NDArray[np.float64]
    spacing: tuple[float, ...]
    oriented: bool
    findings: tuple[Finding, ...]


def saw(kind: str, seen: str, sure: str = "") -> Finding:
    """A finding in a file of which it is not known yet whose it is."""
    return Finding(KINDS[kind], "", (), seen, sure)


def reconcile_nifti(raw: Any, header: Any, affine: NDArray[np.float64], shape: Sequence[int]) -> Reconciled:
    """What the fields of a NIfTI header say together.

    Args:
        raw: the header as the file has it, before nibabel corrected it.
        header: as nibabel corrected it.
        affine: that nibabel chose: the sform, else the qform, else the voxel size alone; in the file's unit.
        shape: of the volume, at least three axes.
    """
    findings = []
    unit = NIFTI_UNITS.get(int(raw["xyzt_units"]) & 7, "")
    scale = MM.get(unit, 1.0)
    if scale != 1:
        findings.append(saw("converted_units", f"states its sizes in {unit} (xyzt_units)"))
    sizes = np.array([float(size) for size in raw["pixdim"][1:4]])
    coded = {name: int(raw[f"{name}_code"]) > 0 for name in ("sform", "qform")}
    if coded["sform"] and np.isfinite(affine).all():
        affine, about = _of_two_forms(raw, header, affine, sizes, shape, coded["qform"])
        findings += about
    oriented = coded["sform"] or coded["qform"]
    if not oriented:
        findings.append(saw("unknown_orientation", "states no orientation (sform_code and qform_code are 0)"))
    slope = float(raw["scl_slope"])
    if np.isfinite(slope) and slope < 0:
        findings.append(saw("negative_slope", f"multiplies its stored numbers by {slope:g} (scl_slope)"))
    in_mm = np.diag([scale, scale, scale, 1.0]) @ affine
    return Reconciled(in_mm, tuple((sizes * scale).tolist()), oriented, tuple(findings))


def reconcile_units(
    units: Sequence[str], affine: NDArray[np.float64], spacing: Sequence[float], field: str
) -> Reconciled:
    """What a header in text says with its unit of length, which may differ from axis to axis of the patient.

    Args:
        units: of the patient's axes, or one for all; empty, or none that is known here, for mm.
        affine: voxels to the file's unit in RAS+.
        spacing: voxel size in the file's unit.
        field: of the header.

    Example:
        >>> found = reconcile_units(["um"], np.diag([500.0, 500.0, 500.0, 1.0]), (500.0, 500.0, 500.0), "space units")
        >>> found.spacing, found.findings[0].seen
        ((0.5, 0.5, 0.5), 'states its sizes in um (space units)')
    """
    known = [unit for text in units if (unit := text.strip().lower().replace("µ", "u").replace("μ", "u")) in MM]
    scales = np.array([MM[unit] for unit in known] if len(known) == len(units) and known else [1.0])
    if (scales == 1).all():
        return Reconciled(affine, tuple(spacing), True, ())
    in_mm = np.diag([*np.broadcast_to(scales, 3), 1.0]) @ affine
    sizes = np.array(spacing) * np.linalg.norm(in_mm[:3, :3], axis=0) / np.linalg.norm(affine[:3, :3], axis=0)
    said = f"states its sizes in {', '.join(dict.fromkeys(known))} ({field})"
    return Reconciled(in_mm, tuple(sizes.tolist()), True, (saw("converted_units", said),))


def _of_two_forms(
    raw: Any, header: Any, sform: NDArray[np.float64], sizes: NDArray[np.float64], shape: Sequence[int], coded: bool
) -> tuple[NDArray[np.float64], list[Finding]]:
    """The affine of a header that has an sform, beside whatever its pixdim and, if it is ``coded``, its qform say."""
    qform, broken = None, []
    if coded:
        try:
            qform = np.asarray(header.get_qform())
        except (ValueError, nib.spatialimages.HeaderDataError):
            length = float(np.sqrt(sum(float(raw[f"quatern_{axis}"]) ** 2 for axis in "bcd")))
            broken = [saw("broken_qform", f"has a qform whose quatern_b, c, d are {length:.6g} long, at most is 1")]
    of_sform = np.linalg.norm(sform[:3, :3], axis=0)
    if not ((sizes > 0).all() and np.isfinite(sizes).all() and abs(np.linalg.det(sform[:3, :3])) > 0):
        return sform, broken  # what is wrong with these is said where they are checked
    if (np.abs(of_sform / sizes - 1) > MAX_SIZE_ERROR).any():
        if qform is not None and np.allclose(of_sform, 1, atol=1e-3):
            return qform, [saw("size_of_qform", f"has an sform with voxels of 1 mm, and {_times(sizes)} in its qform")]
        said = f"has voxels of {_times(of_sform)} in its sform, and of {_times(sizes)} in pixdim"
        return sform, [*broken, saw("contradicting_sizes", said)]
    if qform is None or not np.isfinite(qform).all():
        return sform, broken
    if np.linalg.det(qform[:3, :3]) * np.linalg.det(sform[:3, :3]) < 0:
        axes = ["".join(nib.aff2axcodes(form)) for form in (sform, qform)]
        return sform, [saw("contradicting_sides", f"has axes that point to {axes[0]} by sform, {axes[1]} by qform")]
    corners = np.array(np.meshgrid(*((-0.5, n - 0.5) for n in shape[:3]), [1.0])).reshape(4, -1)
    mm = float(np.linalg.norm(((qform - sform) @ corners)[:3], axis=0).max())
    if mm > MAX_SHIFT_VOXELS * float(sizes.min()):
        codes = f"sform_code {int(raw['sform_code'])} and qform_code {int(raw['qform_code'])}"
        return sform, [saw("forms_apart", f"is placed up to {mm:.3g} apart by its sform and its qform ({codes})")]
    return sform, []


def implausible_size(affine: NDArray[np.float64], shape: Sequence[int]) -> list[Finding]:
    """Whether voxels or the field of view have a size that a scan of a person cannot have.

    Args:
        affine: voxels to mm.
        shape: of the volume.

    Example:
        >>> [finding.seen for finding in implausible_size(np.diag([0.1, 0.1, 0.1, 1]), (240, 240, 155))]
        ['spans 24 x 24 x 15.5 mm with voxels of 0.1 x 0.1 x 0.1 mm; a scan is at least 30 mm long']
        >>> implausible_size(np.eye(4), (240, 240, 155))
        []
    """
    if len(shape) < 3 or min(shape) < 1 or not np.isfinite(affine).all():
        return []
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    sides = edges * shape[:3]
    if not (edges > 0).all():
        return []
    why = ""
    if sides.max() < MIN_SIDE_MM:
        why = f"a scan is at least {MIN_SIDE_MM:g} mm long"
    elif sides.max() > MAX_SIDE_MM:
        why = f"a scan is at most {MAX_SIDE_MM / 1000:g} m long"
    elif edges.max() > MAX_EDGE_MM:
        why = f"a voxel is at most {MAX_EDGE_MM:g} mm long"
    elif edges.min() > MAX_CUBE_MM:
        why = f"a voxel is at most {MAX_CUBE_MM:g} mm long in every direction"
    return (
        [saw("implausible_size", f"spans {_times(sides)} mm with voxels of {_times(edges)} mm; {why}")] if why else []
    )


def surplus_bytes(surplus: int, slice_bytes: int) -> list[Finding]:
    """What bytes after the last promised voxel may be.

    Args:
        surplus: how many there are.
        slice_bytes: of one slice.

    Example:
        >>> [finding.kind.name for surplus in (0, 10, 200) for finding in surplus_bytes(surplus, 100)]
        ['bytes_after_end', 'slices_after_end']
    """
    if surplus <= 0:
        return []
    if slice_bytes and surplus >= slice_bytes:
        more = f"{surplus} bytes, enough for {surplus // slice_bytes} further slices"
        return [saw("slices_after_end", f"holds {more}, after those that its header promises (dim)")]
    return [saw("bytes_after_end", f"holds {surplus} bytes after those that its header promises (dim)")]


def _times(numbers: Iterable[float]) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)
