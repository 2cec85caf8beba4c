"""Reading the header of one DICOM file: few elements, strictly parsed, and nothing of them in any message."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import mmap
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (the field writes it so)
from numpy.typing import NDArray

from cggm_med.errors import MissingExtra

# The only elements that are kept of a header (PS3.6, section 6).
_TAGS = {
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "Modality": 0x00080060,
    "SeriesDescription": 0x0008103E,
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "PatientBirthDate": 0x00100030,
    "ContrastBolusAgent": 0x00180010,
    "BodyPartExamined": 0x00180015,
    "SliceThickness": 0x00180050,
    "SpacingBetweenSlices": 0x00180088,
    "ProtocolName": 0x00181030,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "ImagesInAcquisition": 0x00201002,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "OverlayBitPosition": 0x60000102,
}
_DIRECTORY = "1.2.840.10008.1.3.10"
# MR, enhanced MR, enhanced colour MR and legacy converted enhanced MR image storage (PS3.4, table B.5-1).
MR_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.4{end}" for end in ("", ".1", ".3", ".4"))
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
# Of these, a file without pixels was cut short: MR, CT (three) and PET (two) image storage.
_IMAGE_CLASSES = (*MR_CLASSES, *(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "2.2", "128", "130")))
IMPLICIT, EXPLICIT, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
# JPEG baseline, extended, lossless (two), JPEG-LS (two), JPEG 2000 (two) and RLE: what GDCM decodes.
COMPRESSED = tuple(
    f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")
)
# How many numbers an element holds, and between which values they make sense: mm, cosines, and factors of intensity.
_NUMBERS = {
    "ImagePositionPatient": (3, -1e4, 1e4),
    "ImageOrientationPatient": (6, -1.001, 1.001),
    "PixelSpacing": (2, 0.01, 100.0),
    "SliceThickness": (1, 0.01, 100.0),
    "SpacingBetweenSlices": (1, 0.01, 100.0),
    "RescaleIntercept": (1, -1e9, 1e9),
    "RescaleSlope": (1, -1e9, 1e9),
}


class Unusable(Exception):
    """Why an image cannot be used, in words that hold no value of its header."""


@dataclass(frozen=True)
class Frame:
    """Which frame of an enhanced object a header is of.

    Attributes:
        number: counted from 1.
        values: by name, what may tell it from other frames at its place; to be compared only.
    """

    number: int
    values: tuple[tuple[str, Any], ...] = field(repr=False)


@dataclass(frozen=True)
class Header:
    """The elements of one image that are kept, and how much of its pixel data is there.

    Attributes:
        path: the file.
        values: value of each element as it is stored; without those that follow.
        patient: digest of ``PatientID``, or where that is empty of name and birth date, to be compared only.
        names: digests of the parts of ``PatientName``, to be compared only.
        birth: digest of ``PatientBirthDate``, to be compared only; empty where none is given.
        study: digest of ``StudyInstanceUID``, to be compared only.
        frame: digest of ``FrameOfReferenceUID``, to be compared only.
        transfer_syntax: UID of how the file is encoded.
        pixels_at: at which byte of the file its pixel data begin.
        pixel_bytes: how many bytes of pixel data the file really holds.
        fragments_whole: whether the pixel data are compressed fragments followed by their end.
        part: which frame of the file it is; None for the header of a file.
    """

    path: Path = field(repr=False)
    values: Mapping[str, bytes] = field(repr=False)
    patient: str = field(repr=False)
    names: frozenset[str] = field(repr=False)
    birth: str = field(repr=False)
    study: str = field(repr=False)
    frame: str = field(repr=False)
    transfer_syntax: str = field(repr=False)
    pixels_at: int
    pixel_bytes: int
    fragments_whole: bool
    part: Frame | None = None

    def text(self, name: str) -> str:
        """A value as text, without padding; empty if it is absent. It may hold a name, not to be shown."""
        return self.values.get(name, b"").decode("utf-8", "replace").strip(" \0")

    def same_patient(self, other: Header) -> bool:
        """Whether nothing in two headers says that they are of different people.

        One ``PatientID`` is not enough, since those who anonymise often write the same for all: birth dates must not
        differ, and names, which may be spelled in more than one way, must have a part in common.
        """
        return (
            self.patient == other.patient
            and (self.birth == other.birth or not (self.birth and other.birth))
            and (bool(self.names & other.names) or not (self.names and other.names))
        )

    def whole(self, name: str, default: int | None = None) -> int:
        """An unsigned 16-bit number (US).

        Raises:
            Unusable: if it is none.
        """
        if default is not None and name not in self.values:
            return default
        value = self.values.get(name, b"")
        if len(value) != 2:
            raise Unusable(f"{name} is absent or damaged")
        return int.from_bytes(value, "little")

    def short_number(self, name: str) -> str:
        """A written integer of at most five digits; empty for anything else, which must not be shown."""
        match = re.fullmatch(r"\+?0*([0-9]{1,5})", self.text(name))
        return match[1] if match else ""

    def numbers(self, name: str, default: float | None = None) -> NDArray[np.float64]:
        """Written decimal numbers (DS).

        Raises:
            Unusable: if they are not as many, or not as large, as the element must hold.
        """
        count, low, high = _NUMBERS[name]
        text = self.text(name)
        if not text and default is not None:
            return np.full(count, default)
        parts = [part.strip() for part in text.split("\\")]
        # Neither NaN nor infinity nor what only some parsers accept: each of them would change voxels silently.
        decimal = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
        if len(parts) == count and all(len(part) <= 64 and decimal.fullmatch(part) for part in parts):
            numbers = np.array([float(part) for part in parts])
            if ((low <= numbers) & (numbers <= high)).all():
                return numbers
        plural = "numbers" if count > 1 else "number"
        raise Unusable(f"{name} is absent or damaged; expected {count} {plural} from {low:g} to {high:g}")


def is_dicom(path: Path) -> bool:
    """Whether a file can be opened and begins as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(pydicom: Any, path: Path) -> Header | None:
    """The header of a file; None if it is no DICOM file or has no image.

    Raises:
        Unusable: if it is a DICOM file whose header cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            # A mapped file cannot be read beyond its end, whatever length an element claims to have.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, quiet():
                return _parse(pydicom, content, path)
    except OSError:
        raise Unusable("it cannot be opened") from None
    except Unusable:
        raise
    except Exception:
        # A parser of crafted bytes may raise anything, and its message may repeat them.
        raise Unusable("its header is damaged") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom, highdicom, ITK and GDCM, whose warnings repeat paths and values of headers."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def import_extra(what: str, package: str) -> Any:
    """The module ``package``, which the extra ``dicom`` brings.

    Raises:
        MissingExtra: if it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(what, package, "dicom") from None


def _parse(pydicom: Any, content: mmap.mmap, path: Path) -> Header | None:
    meta = pydicom.filereader.read_file_meta_info(path)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if str(meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY:
        return None
    if syntax == _DEFLATED:
        # pydicom would inflate the whole file, to whatever size, before anything could be checked.
        raise Unusable("its header is deflated, which is not supported; convert it with dcmconv")
    header = pydicom.dcmread(content, stop_before_pixels=True, specific_tags=list(_TAGS.values()))
    raw = {name: header.get_item(tag) for name, tag in _TAGS.items() if tag in header}
    values = {name: element.value for name, element in raw.items() if isinstance(element.value, bytes)}
    # Any other file may lack pixels, but an image without them is damaged.
    if "Rows" not in values and values.get("SOPClassUID", b"").strip(b" \0").decode("ascii") not in _IMAGE_CLASSES:
        if "SOPClassUID" in values:
            return None
        raise Unusable("its header ends early")
    if not values.get("SeriesInstanceUID", b"").strip(b" \0"):
        raise Unusable("it has no SeriesInstanceUID, or its header ends early")
    identity = ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID")
    number, name, birth, study, frame = (values.pop(of, b"").strip(b" \0") for of in identity)
    names = frozenset(map(_digest, re.split(rb"[\^=\s]+", name.lower()))) - {_digest(b"")}
    return Header(
        path,
        values,
        patient=_digest(number) if number else _digest("\0".join([*sorted(names), _digest(birth)]).encode()),
        names=names,
        birth=_digest(birth) if birth else "",
        study=_digest(study),
        frame=_digest(frame),
        transfer_syntax=syntax,
        **_pixels(content, content.tell(), syntax),
    )


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


def _pixels(content: mmap.mmap, start: int, syntax: str) -> dict[str, Any]:
    """Pixel data that are there, and whether compressed fragments are followed by their end (PS3.5, A.4)."""
    if content[start : start + 4] != b"\xe0\x7f\x10\x00":
        return {"pixels_at": start, "pixel_bytes": 0, "fragments_whole": False}
    at = start + (8 if syntax == IMPLICIT else 12)
    length = int.from_bytes(content[at - 4 : at], "little")
    if length != 0xFFFFFFFF:
        there = max(0, min(length, len(content) - at))
        return {"pixels_at": at, "pixel_bytes": there, "fragments_whole": False}
    begin = at
    while content[at : at + 4] == b"\xfe\xff\x00\xe0":
        at += 8 + int.from_bytes(content[at + 4 : at + 8], "little")
    end = content[at : at + 4] == b"\xfe\xff\xdd\xe0"
    return {"pixels_at": begin, "pixel_bytes": at - begin, "fragments_whole": end}
