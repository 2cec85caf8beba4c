"""The frames of enhanced DICOM objects: a header for each, and the volumes that they form."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cggm_med.data.dicom.header import COMPRESSED, Frame, Header, Unusable, quiet

# Enhanced MR, CT and PET image storage, and legacy converted enhanced ones of each (PS3.4, table B.5-1).
CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("4.1", "4.4", "2.1", "2.2", "130", "128.1"))
_SHARED, _PER_FRAME, _DIMENSIONS, _AGENTS = 0x52009229, 0x52009230, 0x00209222, 0x00180012

# What stands in a functional group instead of beside the pixels (PS3.3, C.7.6.16.2, C.8.13.5 and C.8.15.3).
_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
}
_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
# Where frames are counted along the slices, which is no reason to divide them.
_ALONG_SLICES = ("InStackPositionNumber", "ImagePositionPatient", "StackID")
# In what frames at one place commonly differ, for objects whose dimensions do not tell.
_ALSO_DIFFER = (
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("MRDiffusionSequence", "DiffusionDirectionality"),
    *((of, "FrameType") for of in _TYPES),
    *((of, "ComplexImageComponent") for of in _TYPES),
)
_STACK, _FILE, _UNNAMED = "StackID", "file", "dimension "
_NAMED = (_STACK, *dict.fromkeys(name for _, name in _ALSO_DIFFER))
_SAME_PLACE = 0.01  # mm


def headers_of(pydicom: Any, file: Header) -> tuple[Header, ...]:
    """The header of each frame of an enhanced object, with what its functional groups hold.

    Args:
        pydicom: the module.
        file: the header of the file as a whole.

    Returns:
        One header for each frame; the file's alone, which no reader of volumes accepts, if it is no enhanced object, or
        its functional groups are absent, damaged, or not as many as its frames.
    """
    if file.text("SOPClassUID") not in CLASSES:
        return (file,)
    try:
        with (
            file.path.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
            quiet(),
        ):
            wanted = [_SHARED, _PER_FRAME, _DIMENSIONS, _AGENTS]
            dataset = pydicom.dcmread(content, stop_before_pixels=True, specific_tags=wanted)
            return tuple(_frame_headers(pydicom, dataset, file))
    except Exception:
        # A parser of crafted bytes may raise anything. An object that nobody wants must not stop the others.
        return (file,)


def volumes_of(images: Sequence[Header]) -> list[tuple[str, tuple[Header, ...]]]:
    """Divide the images of a series into volumes: those of enhanced objects by what differs at one place.

    Stacks are divided, and so are frames by each dimension, or by file, in which two frames at one place differ. A
    dimension that the place decides, such as the time at which each slice was taken, divides nothing.

    Returns:
        For each volume, in the order of the values that divide, which one it is and by what, such as
        ``volume 2 of 3 by EffectiveEchoTime``, and its images; all images, and nothing to tell, where none is a frame.
    """
    frames = [image for image in images if image.part is not None]
    if not frames or len(frames) < len(images):
        return [("", tuple(images))]
    files = {path: number for number, path in enumerate(sorted({image.path for image in frames}))}
    values = [dict(image.part.values) | {_FILE: files[image.path]} for image in frames if image.part]
    at_one_place: dict[Any, list[dict[str, Any]]] = {}
    for image, of in zip(frames, values, strict=True):
        at_one_place.setdefault((of.get(_STACK), _place(image)), []).append(of)
    # What has a name comes first: nobody can tell what a private dimension or a file stands for.
    unnamed = [name for name in dict.fromkeys(itertools.chain.from_iterable(values)) if name not in _NAMED]
    dividing: list[str] = []
    for name in (*_NAMED, *sorted(unnamed, key=lambda name: (name == _FILE, name.startswith(_UNNAMED)))):
        tried = {tuple(of.get(one) for one in (*dividing, name)) for of in values}
        finer = len(tried) > len({tuple(of.get(one) for one in dividing) for of in values})
        differs = any(len({of.get(name) for of in same}) > 1 for same in at_one_place.values())
        if finer and (differs or name == _STACK):
            dividing.append(name)
    volumes: dict[Any, list[Header]] = {}
    for image, of in zip(frames, values, strict=True):
        # What is absent comes first: numbers and words of one dimension can be ordered, nothing and a number cannot.
        key = tuple((name in of, of.get(name, 0)) for name in dividing)
        volumes.setdefault(key, []).append(image)
    by = f" by {' and '.join(dividing)}"
    return [
        (f"volume {number} of {len(volumes)}{by}" if dividing else "", tuple(volumes[key]))
        for number, key in enumerate(sorted(volumes), 1)
    ]


def _place(image: Header) -> Any:
    try:
        return tuple(np.rint(image.numbers("ImagePositionPatient") / _SAME_PLACE).astype(int).tolist())
    except Unusable:
        return None


def _frame_headers(pydicom: Any, dataset: Any, file: Header) -> list[Header]:
    shared, frames = dataset[_SHARED].value, dataset[_PER_FRAME].value
    if len(shared) != 1 or int(file.text("NumberOfFrames")) != len(frames):
        return [file]
    dimensions = _dimensions(pydicom, dataset)
    whole = {name: value for name, value in file.values.items() if name not in itertools.chain(*_GROUPS.values())}
    plain = file.transfer_syntax not in COMPRESSED
    # Fragments are of all frames. What is there beyond the plain ones is left to the last, where it is refused.
    size = file.whole("Columns") * file.whole("Rows") * file.whole("BitsAllocated") // 8 if plain else 0
    headers = []
    for number, frame in enumerate(frames, 1):
        values = dict(whole)
        for group, names in _GROUPS.items():
            item = _item(group, frame, shared[0])
            for name in names:
                if item is not None and name in item and isinstance(value := item.get_item(name).value, bytes):
                    values[name] = value
        values |= _described(dataset, frame, shared[0])
        before = (number - 1) * size
        there = max(0, file.pixel_bytes - before)
        headers.append(
            replace(
                file,
                values=values,
                pixels_at=file.pixels_at + before,
                pixel_bytes=min(there, size) if plain and number < len(frames) else there,
                part=Frame(number, tuple(_differing(frame, shared[0], dimensions))),
            )
        )
    return headers


def _described(dataset: Any, frame: Any, shared: Any) -> dict[str, bytes]:
    """What a frame shows, in the elements by which an image of its own would tell it."""
    values = {}
    for of in _TYPES:
        if (item := _item(of, frame, shared)) is not None and "FrameType" in item:
            values["ImageType"] = "\\".join(item.FrameType).encode()
    content = _item("FrameContentSequence", frame, shared)
    if content is not None and "InStackPositionNumber" in content:
        # Of the frames of a stack, this counts what instance numbers count of images; theirs counts files.
        values["InstanceNumber"] = str(int(content.InStackPositionNumber)).encode()
    else:
        values["InstanceNumber"] = b""
    given = dataset.get("ContrastBolusAgentSequence")
    usage = _item("ContrastBolusUsageSequence", frame, shared)
    if given and (usage is None or usage.get("ContrastBolusAgentAdministered", "YES") == "YES"):
        values["ContrastBolusAgent"] = str(given[0].get("CodeMeaning", "") or "agent").encode()
    anatomy = _item("FrameAnatomySequence", frame, shared)
    if anatomy is not None and anatomy.get("AnatomicRegionSequence"):
        values["BodyPartExamined"] = str(anatomy.AnatomicRegionSequence[0].get("CodeMeaning", "")).encode()
    return values


def _differing(frame: Any, shared: Any, dimensions: Sequence[str]) -> list[tuple[str, Any]]:
    """By name, the values by which a frame may be told from others at its place; only to be compared, never shown."""
    found: dict[str, Any] = {}
    content = _item("FrameContentSequence", frame, shared)
    if content is not None:
        if "StackID" in content:
            found[_STACK] = str(content.StackID)
        indices = content.get("DimensionIndexValues")
        indices = [indices] if isinstance(indices, int) else list(indices or ())
        if len(indices) == len(dimensions):
            for name, index in zip(dimensions, indices, strict=True):
                if name not in _ALONG_SLICES:
                    found[name] = int(index)
    for group, name in _ALSO_DIFFER:
        item = _item(group, frame, shared)
        if item is not None and item.get(name) is not None and name not in found:
            value = item[name].value
            found[name] = float(value) if isinstance(value, float | int) else str(value)
    return list(found.items())


def _dimensions(pydicom: Any, dataset: Any) -> list[str]:
    """The keyword of what each dimension counts; private ones are numbered."""
    items = dataset[_DIMENSIONS].value if _DIMENSIONS in dataset else ()
    keywords = [pydicom.datadict.keyword_for_tag(item.DimensionIndexPointer) for item in items]
    return [keyword or f"{_UNNAMED}{number}" for number, keyword in enumerate(keywords, 1)]


def _item(group: str, frame: Any, shared: Any) -> Any:
    """The item of a functional group, which stands either with the frame or with what all frames share."""
    for holder in (frame, shared):
        if holder.get(group):
            return holder[group].value[0]
    return None
