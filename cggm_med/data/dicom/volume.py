"""Turning a DICOM series into one volume with its affine, and refusing what is not one regular volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the field writes it so)
from numpy.typing import NDArray

from cggm_med.data.checks.finding import Finding
from cggm_med.data.checks.header import saw
from cggm_med.data.dicom.frame_pixels import read_frames
from cggm_med.data.dicom.frames import CLASSES
from cggm_med.data.dicom.header import COMPRESSED, EXPLICIT, IMPLICIT, MR_CLASSES, Header, Unusable, quiet
from cggm_med.data.dicom.series import MAX_LISTED, Series
from cggm_med.data.volumes.grids import largest_displacement
from cggm_med.data.volumes.io import write_volume
from cggm_med.errors import DataError, MissingExtra

_MAX_MATRIX = 4096
# How far any voxel may lie from its place in the regular volume. Positions and cosines that were rounded to three
# decimals come to a tenth of a voxel; a missing slice to half a voxel and more, a gantry tilted by 1 degree to several.
_TOLERANCE_VOXELS = 0.25
# Directions written with three decimals are off by less.
_COSINE_TOLERANCE = 2e-3
_MIN_BITS = 8  # of a pixel; an image of fewer is a mask


@dataclass(frozen=True)
class Stack:
    """A series that was found to be one regular volume.

    Attributes:
        headers: of its images in the order of the slice axis.
        shape: voxels along the axes (x, y, z): columns, rows, slices.
        affine: from voxel indices (x, y, z) to mm, RAS+.
        findings: that its numbers or header speak of more slices than there are; of no case and no modality yet.
    """

    headers: tuple[Header, ...] = field(repr=False)
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    findings: tuple[Finding, ...] = ()


def check_series(series: Series) -> Stack:
    """Order the slices of a series and make sure that they are one regular volume, from their headers alone.

    Slices missing at either end are noticed only where the headers count them, which not all do.

    Raises:
        DataError: for images that are damaged, in colour, of several frames or in a compression that cannot be decoded;
            for slices of different people, frames of reference, size, orientation or pixel spacing, or that lie twice
            at one place, have gaps between them, or form a sheared stack (tilted gantry).
    """
    where = f"series {series.name} ({series.kind})"
    slices, problems = [], []
    for place, image in enumerate(series.headers, 1):
        number = image.short_number("InstanceNumber")
        name = f"instance {number}" if number else f"file {place} of {len(series.headers)}"
        if image.part is not None:
            file = f" of file {series.paths.index(image.path) + 1}" if len(series.paths) > 1 else ""
            name = f"frame {image.part.number}{file}"
        try:
            slices.append(_Slice.of(name, image))
        except Unusable as reason:
            problems.append(f"{name}: {reason}")
    if problems:
        raise DataError(
            f"{where}: {len(problems)} of {len(series.headers)} images cannot be used:", problems, listed=MAX_LISTED
        )
    if len(slices) < 2:
        raise DataError(f"{where} is a single image; expected a stack of slices, export the whole series")
    first = slices[0]
    for other in slices[1:]:
        if different := first.differs(other):
            raise DataError(f"{where}: {first.name} and {other.name} differ in {different}; export them as two series")

    normal = np.cross(first.row, first.column)
    slices.sort(key=lambda one: float(one.position @ normal))
    first = slices[0]
    offsets = np.array([one.position - first.position for one in slices])
    _refuse_irregular(where, slices, offsets @ normal)
    drift = float(np.abs(offsets @ np.column_stack([first.row, first.column]) / first.spacing).max())
    if drift > _TOLERANCE_VOXELS:
        raise DataError(
            f"{where}: its slices are shifted against each other by up to {drift:.3g} pixels (tilted gantry or sheared "
            f"stack), allowed are {_TOLERANCE_VOXELS}; resample it to a regular grid first, for example with dcm2niix"
        )
    step = float(offsets[-1] @ normal) / (len(slices) - 1)
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([first.row * first.spacing[0], first.column * first.spacing[1], normal * step])
    lps[:3, 3] = first.position
    return Stack(
        tuple(one.header for one in slices),
        (*first.shape, len(slices)),
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps,
        tuple(_missing_slices(series.headers, step)),
    )


def read_series(series: Series) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Voxels and affine of a series.

    Returns:
        The volume ``(x, y, z)`` along columns, rows and slices, in the units of the rescaled intensities
        (stored value x ``RescaleSlope`` + ``RescaleIntercept``, by slice); and its affine ``(4, 4)`` from voxel indices
        to mm, RAS+.

    Raises:
        DataError: whatever `check_series` refuses, pixels that cannot be decoded, and numbers that need more bits than
            the header states, of which readers would cut off the highest.
    """
    stack = check_series(series)
    for image in series.headers:
        _refuse_wider_pixels(f"series {series.name} ({series.kind})", image)
    try:
        volume, lps = (_read_files if stack.headers[0].part is None else read_frames)(stack.headers)
    except MissingExtra:
        raise
    except Exception:
        # Messages of the libraries repeat paths and values.
        syntax = series.headers[0].transfer_syntax
        raise DataError(
            f"series {series.name} ({series.kind}): its pixels cannot be decoded (transfer syntax {syntax}); "
            "copy it anew, or decompress it, for example with dcmdjpeg or gdcmconv --raw"
        ) from None
    other = None if lps is None else np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    agree = other is not None and largest_displacement(stack.affine, other, stack.shape) <= _TOLERANCE_VOXELS
    if volume.shape != stack.shape or not agree:
        raise DataError(
            f"series {series.name} ({series.kind}): two readers disagree on where it lies; "
            "convert it to NIfTI with a tool that you trust and give that"
        )
    return volume, stack.affine


def _read_files(images: Sequence[Header]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Voxels ``(x, y, z)`` of a stack of files and its affine from voxel indices to mm, LPS+, as SimpleITK has them."""
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(image.path) for image in images])
    # Else the first slice decides, and fractions of later slices, whose slope may be another, are cut off.
    reader.SetOutputPixelType(sitk.sitkFloat32)
    with quiet():
        image = reader.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    volume: NDArray[np.float32] = sitk.GetArrayFromImage(image).T
    return volume, lps


def write_nifti(series: Series, path: Path) -> None:
    """Write a series as a NIfTI file in single precision, with its affine in sform and qform and no other metadata.

    Args:
        series: as `find_series` gives them.
        path: ends in ``.nii``; whole or not written at all.

    Raises:
        DataError: if the series cannot be read.
        OutputError: if the file cannot be written.
    """
    write_volume(path, *read_series(series))


def _is_enhanced(image: Header) -> bool:
    return image.text("SOPClassUID") in (*CLASSES, *MR_CLASSES[1:])


@dataclass(frozen=True)
class _Slice:
    """Where one image lies, in mm, LPS+: its first pixel, and the directions in which columns and rows are counted."""

    name: str
    path: Path = field(repr=False)
    header: Header = field(repr=False)
    position: NDArray[np.float64]
    row: NDArray[np.float64]
    column: NDArray[np.float64]
    spacing: NDArray[np.float64]
    shape: tuple[int, int]

    @staticmethod
    def of(name: str, image: Header) -> _Slice:
        """The slice that an image is.

        Raises:
            Unusable: if it is none, or lacks anything.
        """
        if image.transfer_syntax not in (IMPLICIT, EXPLICIT, *COMPRESSED):
            raise Unusable("its transfer syntax is not supported; convert it with gdcmconv --raw or dcmconv")
        if image.part is None and (image.text("NumberOfFrames") not in ("", "1") or _is_enhanced(image)):
            raise Unusable(
                "it holds several frames, and no functional groups that say of each where it lies; convert it to NIfTI "
                "with dcm2niix and give that"
            )
        if image.whole("SamplesPerPixel") != 1 or image.text("PhotometricInterpretation") != "MONOCHROME2":
            raise Unusable("it is in colour or inverted; expected one sample a pixel, MONOCHROME2")
        columns, rows, bits = image.whole("Columns"), image.whole("Rows"), image.whole("BitsAllocated")
        if not (0 < columns <= _MAX_MATRIX and 0 < rows <= _MAX_MATRIX and bits in (8, 16)):
            raise Unusable(f"it is {columns} x {rows} of {bits} bits; expected up to {_MAX_MATRIX}, 8 or 16 bits")
        if image.transfer_syntax in COMPRESSED:
            if not image.fragments_whole:
                raise Unusable("its compressed pixel data are incomplete; copy it anew")
        elif not 0 <= image.pixel_bytes - (expected := columns * rows * bits // 8) < max(columns * bits // 8, 2):
            raise Unusable(f"it has {image.pixel_bytes} bytes of pixel data, expected {expected}; copy it anew")
        stored, high, signed = (image.whole(name) for name in ("BitsStored", "HighBit", "PixelRepresentation"))
        if not (_MIN_BITS <= stored <= bits and high == stored - 1 and signed in (0, 1)):
            raise Unusable(
                f"BitsStored is {stored}, HighBit {high} and PixelRepresentation {signed}; expected {_MIN_BITS} to "
                f"{bits}, one less than that, and 0 or 1"
            )
        if image.numbers("RescaleSlope", default=1.0) == 0:
            raise Unusable("RescaleSlope is 0, which makes all pixels alike")
        image.numbers("RescaleIntercept", default=0.0)

        row, column = image.numbers("ImageOrientationPatient").reshape(2, 3)
        lengths_and_angle = np.array([np.linalg.norm(row) - 1, np.linalg.norm(column) - 1, row @ column])
        if np.abs(lengths_and_angle).max() > _COSINE_TOLERANCE:
            raise Unusable("ImageOrientationPatient is not two perpendicular directions of length 1")
        if (sheared := abs(float(row @ column)) * max(columns, rows)) > _TOLERANCE_VOXELS:
            raise Unusable(
                f"ImageOrientationPatient is not two perpendicular directions: its columns shear by {sheared:.2g} "
                f"pixels, allowed are {_TOLERANCE_VOXELS}; resample it to a regular grid first"
            )
        row = row / np.linalg.norm(row)
        column = column - (column @ row) * row
        between_rows, between_columns = image.numbers("PixelSpacing")
        return _Slice(
            name=name,
            path=image.path,
            header=image,
            position=image.numbers("ImagePositionPatient"),
            row=row,
            column=column / np.linalg.norm(column),
            spacing=np.array([between_columns, between_rows]),
            shape=(columns, rows),
        )

    def differs(self, other: _Slice) -> str | None:
        """In what ``other`` cannot be of the same stack."""
        if not self.header.same_patient(other.header):
            return "PatientName or PatientBirthDate"
        if self.header.frame != other.header.frame:
            return "frame of reference"
        if self.header.whole("PixelRepresentation") != other.header.whole("PixelRepresentation"):
            return "whether their pixels have a sign"
        if self.shape != other.shape:
            return "size"
        if not np.allclose(self.spacing, other.spacing, rtol=1e-3):
            return "pixel spacing"
        turned = float(np.abs([self.row - other.row, self.column - other.column]).max())
        return "orientation" if turned * max(self.shape) > _TOLERANCE_VOXELS else None


def _refuse_irregular(where: str, slices: Sequence[_Slice], distances: NDArray[np.float64]) -> None:
    """Demand one distance between all neighbours of a sorted stack; ``distances`` are in mm from its first slice."""
    steps = np.diff(distances)
    usual = float(np.median(steps))
    same = int(steps.argmin())
    if steps[same] < 0.01:
        raise DataError(
            f"{where}: {slices[same].name} and {slices[same + 1].name} lie at the same place; remove copies, and "
            "export echoes, phases or b-values as series of their own"
        )
    regular = np.linspace(0, distances[-1], len(slices))
    if np.abs(distances - regular).max() > _TOLERANCE_VOXELS * usual:
        odd = int(np.abs(steps - usual).argmax())
        raise DataError(
            f"{where}: {slices[odd].name} and {slices[odd + 1].name} are {steps[odd]:.4g} mm apart, most others "
            f"{usual:.4g} mm; slices are missing or spaced unevenly, export the whole series"
        )


def _refuse_wider_pixels(where: str, image: Header) -> None:
    """Demand that uncompressed pixels leave the bits empty that the header does not count."""
    if image.transfer_syntax in COMPRESSED:
        return
    bits, stored = image.whole("BitsAllocated"), image.whole("BitsStored")
    count = image.whole("Columns") * image.whole("Rows")
    read = np.fromfile(image.path, np.uint8 if bits == 8 else np.dtype("<u2"), count, offset=image.pixels_at)
    pixels: NDArray[np.uint16] = read.astype(np.uint16)
    unused = ((1 << bits) - 1) & ~((1 << stored) - 1)
    if stored <= (overlay := image.whole("OverlayBitPosition", default=0)) < bits:
        unused &= ~(1 << overlay)  # a drawing that older scanners put there
    above = pixels & unused
    negative = (pixels >> (stored - 1)) & 1
    repeats_sign = image.whole("PixelRepresentation") == 1 and (above == negative * unused).all()
    if above.any() and not repeats_sign:
        number = image.short_number("InstanceNumber")
        raise DataError(
            f"{where}: the pixels of {f'instance {number}' if number else 'an image'} need more than {stored} bits, "
            "which BitsStored states; export the series anew, or correct BitsStored and HighBit"
        )


def _missing_slices(images: Sequence[Header], step: float) -> list[Finding]:
    """Whether numbers and headers of a regular stack, whose slices are ``step`` mm apart, speak of more slices."""
    seen = []
    numbers = sorted(int(number) for image in images if (number := image.short_number("InstanceNumber")))
    if len(numbers) == len(images) and numbers != (usual := list(range(1, len(images) + 1))):
        ends = f"instance numbers from {numbers[0]} to {numbers[-1]}"
        # Echoes and slabs are numbered together: 1, 3, 5 and 21 to 40 are common among whole series.
        if numbers[0] > 1 or numbers[-1] > usual[-1]:
            seen.append(f"has {len(images)} images with {ends}")
    told = images[0].short_number("ImagesInAcquisition")
    if told and int(told) > len(images):
        seen.append(f"has {len(images)} images, where ImagesInAcquisition says {told}")
    try:
        between, thick = (float(images[0].numbers(of, 0.0)[0]) for of in ("SpacingBetweenSlices", "SliceThickness"))
    except Unusable:
        between = thick = 0.0  # which changes no voxel
    # Some write the space between the slices alone, which is hardly more than their thickness.
    apart = [between, between + thick] if between < thick else [between]
    if between and min(abs(step - of) for of in apart) > _TOLERANCE_VOXELS * step:
        seen.append(f"has slices that are {step:.3g} mm apart, where SpacingBetweenSlices says {between:.3g} mm")
    return [saw("missing_slices", one) for one in seen]
