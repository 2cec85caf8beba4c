"""Reading the pixels of frames of enhanced DICOM objects, and where highdicom finds that they lie."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cggm_med.data.dicom.header import Header, import_extra, quiet


def read_frames(frames: Sequence[Header]) -> tuple[NDArray[np.float32], NDArray[np.float64] | None]:
    """Read the frames of a volume, each with the rescaling that its functional groups state.

    Args:
        frames: along the slices.

    Returns:
        The volume ``(x, y, z)`` along columns, rows and frames, in rescaled intensities; and its affine from voxel
        indices to mm, LPS+, as highdicom computes it; None if to highdicom the frames are no regular volume in their
        order.

    Raises:
        MissingExtra: if highdicom is not installed.
        Exception: whatever pydicom raises of frames that it cannot decode; the message may hold values of the header.
    """
    pydicom, highdicom = (import_extra("enhanced DICOM", package) for package in ("pydicom", "highdicom"))
    volume = np.empty((frames[0].whole("Columns"), frames[0].whole("Rows"), len(frames)), np.float32)
    places: list[Any] = []
    with quiet():
        for path, of in itertools.groupby(frames, key=lambda one: one.path):
            images = list(of)
            numbers = [image.part.number for image in images if image.part]
            header = pydicom.dcmread(path, stop_before_pixels=True)
            pixels = pydicom.pixels.iter_pixels(path, indices=[number - 1 for number in numbers], raw=True)
            for image, number, frame in zip(images, numbers, pixels, strict=True):
                slope, intercept = image.numbers("RescaleSlope", 1.0)[0], image.numbers("RescaleIntercept", 0.0)[0]
                volume[:, :, len(places)] = (_without_unused_bits(frame, image) * slope + intercept).T
                places.append(_place(header, number))
        return volume, _affine(highdicom, frames[0], places)


def _without_unused_bits(frame: NDArray[Any], image: Header) -> NDArray[np.float64]:
    """The numbers of a frame, without what older scanners draw into the bits above ``BitsStored``."""
    bits = image.whole("BitsStored")
    numbers = frame.astype(np.int64) & ((1 << bits) - 1)
    if image.whole("PixelRepresentation") == 1:
        numbers -= (numbers >> (bits - 1)) << bits
    return numbers.astype(np.float64)


def _place(header: Any, number: int) -> tuple[Any, Any, Any]:
    """Position, orientation and pixel spacing, as pydicom reads them."""

    def item(group: str) -> Any:
        (shared,), frame = header.SharedFunctionalGroupsSequence, header.PerFrameFunctionalGroupsSequence[number - 1]
        return (frame if group in frame else shared)[group].value[0]

    return (
        item("PlanePositionSequence").ImagePositionPatient,
        item("PlaneOrientationSequence").ImageOrientationPatient,
        item("PixelMeasuresSequence").PixelSpacing,
    )


def _affine(highdicom: Any, first: Header, places: Sequence[tuple[Any, Any, Any]]) -> NDArray[np.float64] | None:
    _, orientation, spacing = places[0]
    # Wide, since what is regular was decided before; a wrong order, place or size is what this is to find.
    step, order = highdicom.spatial.get_volume_positions(
        [place[0] for place in places], orientation, rtol=0.5, perpendicular_tol=0.05
    )
    # It counts along the other direction of the normal in either handedness; only the order matters here.
    if step is None or order not in (list(range(len(places))), list(range(len(places)))[::-1]):
        return None
    geometry = highdicom.VolumeGeometry.from_attributes(
        image_position=places[order.index(0)][0],
        image_orientation=orientation,
        rows=first.whole("Rows"),
        columns=first.whole("Columns"),
        pixel_spacing=spacing,
        spacing_between_slices=step,
        number_of_frames=len(places),
        coordinate_system="PATIENT",
    )
    if order[0]:
        geometry = geometry.flip_spatial(0)
    # From indices (frame, row, column) to (column, row, frame).
    affine: NDArray[np.float64] = geometry.affine[:, [2, 1, 0, 3]]
    return affine
