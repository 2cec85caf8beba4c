"""What programs for drawing say of a label's numbers: 3D Slicer in a segmentation's header, ITK-SNAP in a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cggm_med.data.cases import LabelFile, RegionFile, RegionFiles, natural_key
from cggm_med.data.declaration import UNKNOWN
from cggm_med.data.folders.proposal import Labels
from cggm_med.data.folders.region_masks import MAX_CHECKED, numbers_of
from cggm_med.data.volumes.itk_formats import MAX_HEADER
from cggm_med.data.volumes.label_files import masks_of
from cggm_med.errors import DataError, first_of

MAX_TABLE = 1 << 20  # bytes; a table of labels is a few lines
_SNAP = "ITK-SnAP Label Description File"  # the second line of such a table


@dataclass(frozen=True)
class Segment:
    """One structure of a segmentation by 3D Slicer.

    Attributes:
        name: as it was called; empty where it bears the name that Slicer gives by itself, such as ``Segment_1``.
        value: its number.
        layer: volume of the file that holds it, where segments overlap.
    """

    name: str
    value: int
    layer: int


def segments_of(path: Path) -> tuple[Segment, ...]:
    """The segments that 3D Slicer wrote into the header of an NRRD file; none in other files.

    Format: https://slicer.readthedocs.io, Modules, Segmentations, "segmentation file format (.seg.nrrd)".
    """
    if not path.name.lower().endswith(".nrrd"):
        return ()
    found: dict[int, dict[str, str]] = {}
    try:
        with path.open("rb") as file:
            while (line := file.readline(MAX_HEADER).decode("utf-8", errors="replace").strip()) and (
                file.tell() <= MAX_HEADER
            ):
                if told := re.fullmatch(r"Segment(\d+)_(Name|LabelValue|Layer):=(.*)", line):
                    found.setdefault(int(told[1]), {})[told[2]] = told[3].strip()
    except OSError:
        return ()
    known = [of for _, of in sorted(found.items()) if of.get("LabelValue", "").isdecimal()]
    return tuple(
        Segment(
            "" if re.fullmatch(r"(segment[ _]?\d*)?", of.get("Name", ""), re.IGNORECASE) else of["Name"],
            int(of["LabelValue"]),
            int(of["Layer"]) if of.get("Layer", "").isdecimal() else 0,
        )
        for of in known
    )


def as_segments(labels: Mapping[str, Path]) -> tuple[dict[str, LabelFile], Labels | None, tuple[str, ...]]:
    """The labels, and what their numbers mean where 3D Slicer wrote it into all of the files; and what to ask of it.

    Where a structure has different numbers in different files, or structures overlap, each case says which number of
    which volume is which region.

    Args:
        labels: file by case.
    """
    plain: dict[str, LabelFile] = dict(labels)
    segments = {id: segments_of(path) for id, path in labels.items()}
    if not labels or not all(segments.values()):
        return plain, None, ()
    held = [segment for of in segments.values() for segment in of]
    names = sorted({segment.name for segment in held}, key=natural_key)
    numbers = {segment.value: segment.name for segment in held}
    layers = any(segment.layer for segment in held)
    given = [name for name in numbers.values() if name]
    if not layers and len({(s.value, s.name) for s in held}) == len(numbers) and len(set(given)) == len(given):
        told = {value: name or UNKNOWN for value, name in sorted(numbers.items())}
        return plain, Labels(told, source="3D Slicer, in the headers of the files"), ()
    if "" in names:
        return plain, None, (_about_names([id for id, of in segments.items() if any(not s.name for s in of)]),)
    found: dict[str, LabelFile] = {}
    for id, of in segments.items():
        where = {s.name: RegionFile(labels[id], s.layer if layers else None, s.value) for s in of}
        found[id] = RegionFiles(tuple((name, where.get(name)) for name in names))
    return found, *_regions(names, found, layers)


def _regions(
    names: Sequence[str], labels: Mapping[str, LabelFile], layers: bool
) -> tuple[Labels | None, tuple[str, ...]]:
    """Numbers of segments that each case has in its own way, and what to ask of them."""
    read = [label for label in list(labels.values())[:MAX_CHECKED] if isinstance(label, RegionFiles)]
    try:
        _, told, overlaps = numbers_of(names, [masks_of(label) for label in read])
    except DataError as error:
        return None, (f"what the segments of 3D Slicer are: {error}",)
    why = "they overlap" if layers else "one has different numbers in different files"
    return replace(told, source="3D Slicer, in the headers of the files"), (
        f"whether {first_of(names, 8)} are the regions, as the files of 3D Slicer name them: {why}, so each case says "
        f"where they are, and null where its file has no segment of that name{overlaps}",
    )


def _about_names(ids: Sequence[str]) -> str:
    return (
        f"what the segments of 3D Slicer are: some have no name ({first_of(ids)}), and one number or volume is not the "
        "same in all files; give each segment a name in Slicer"
    )


def table_of_labels(files: Iterable[Path]) -> tuple[dict[int, str], Path] | None:
    """Meanings of numbers but 0 in a label description that ITK-SNAP wrote, and this file; None if several differ.

    Args:
        files: to look at; those that are no such table are passed over.
    """
    tables = {file: found for file in files if file.suffix.lower() in (".txt", ".label") and (found := _snap(file))}
    if not tables or any(found != next(iter(tables.values())) for found in tables.values()):
        return None
    file, meanings = next(iter(tables.items()))
    return meanings, file


def _snap(file: Path) -> dict[int, str]:
    try:
        if file.stat().st_size > MAX_TABLE:
            return {}
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    if _SNAP.lower() not in text[:400].lower():
        return {}
    rows = re.findall(r'^\s*(\d{1,5})(?:\s+\d+){3}\s+[\d.]+\s+\d\s+\d\s+"([^"]+)"\s*$', text, re.MULTILINE)
    return {int(number): name for number, name in rows if int(number)}
