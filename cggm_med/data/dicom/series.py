"""Reading magnetic resonance series from DICOM folders, without ever telling whom they show.

Nothing that leaves this module and its neighbours in messages, in the ``repr`` of objects, or in names and
headers of NIfTI files identifies a person. The rules:

- Only the elements listed in ``header`` are kept. Study dates, accession numbers, institutions, physicians and private
  elements are none of them. Patient (with name and birth date), study and frame of reference are kept as digests, to
  notice that two series belong to different ones.
- A message names a series by its number and by a kind from a fixed list (``series 5: t1ce``), an image by its instance
  number, and a file that cannot be parsed by its place in the sorted list of files. Series numbers of more than five
  digits are not shown, because some exporters put dates there.
- Descriptions and UIDs are not shown, because people write names into the former and the latter identify an
  examination. Nor are paths: exports are commonly named after the patient, the given folder included.
- Values that cannot be used are named by their keyword and not repeated, whatever they hold.
- Messages and warnings of pydicom, highdicom, ITK and GDCM repeat paths and values, so they are replaced.

`Series.uid`, `Series.description` and `Series.paths` do hold such text, for callers that need it; a caller that shows
them breaks these rules. The path of an output is the caller's own choice, and is named if it cannot be written. A DICOM
segmentation is the exception: it has to carry the identity of the series that it belongs to.

Headers are read with pydicom, which is written in Python and hence cannot be brought to overwrite memory by a crafted
file, and their numbers are parsed here, strictly. Pixels are decoded by SimpleITK (GDCM), which knows the compressions
that are found in practice; frames of enhanced objects by pydicom, since SimpleITK rescales all of them as the first.
The affine is computed twice, here and by SimpleITK or, of frames, highdicom, and both must agree.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cggm_med.data.cases import ENDINGS, natural_key
from cggm_med.data.dicom.frames import headers_of, volumes_of
from cggm_med.data.dicom.header import Header, Unusable, import_extra, is_dicom, read_header
from cggm_med.data.dicom.series_kinds import kind_of_header
from cggm_med.data.layouts import files_under
from cggm_med.errors import DataError, UnknownName, first_of

_CHOOSE = "choose each by its number, its UID or a part of its description, such as --series t1ce=5"

MAX_LISTED = 8  # images that cannot be used, or volumes of a series; the others are counted


@dataclass(frozen=True)
class Series:
    """The images of one ``SeriesInstanceUID`` of one patient; of enhanced objects, one of the volumes that they hold.

    Attributes:
        name: what it is called: its ``SeriesNumber`` such as ``"5"``; ``"5.1"``, ``"5.2"`` where several bear the same,
            or it holds several volumes; ``"x"`` where it has none that can be shown.
        kind: ``flair``, ``t1``, ``t1ce`` or ``t2``; or why it is none of them, such as ``localiser`` or ``derived``;
            ``mixed`` where its images differ in that.
        headers: those of its files, in the order of their paths; of enhanced objects, those of its frames.
        volume: which of several volumes it is, such as ``volume 2 of 3 by EffectiveEchoTime``; else empty.
    """

    name: str
    kind: str
    headers: tuple[Header, ...] = field(repr=False)
    volume: str = ""

    @property
    def uid(self) -> str:
        """``SeriesInstanceUID``; identifies an examination, not to be shown."""
        return self.headers[0].text("SeriesInstanceUID")

    @property
    def description(self) -> str:
        """``SeriesDescription``, or ``ProtocolName`` where that is empty; may hold a name, not to be shown."""
        return self.headers[0].text("SeriesDescription") or self.headers[0].text("ProtocolName")

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files in the order of their paths, each once; may hold a name, not to be shown."""
        return tuple(dict.fromkeys(header.path for header in self.headers))

    def describe(self) -> str:
        """The series in a few words that identify nobody, such as ``series 5: t1ce, 20 images of 256 x 256``."""
        size = ""
        with contextlib.suppress(Unusable):
            size = f" of {self.headers[0].whole('Columns')} x {self.headers[0].whole('Rows')}"
        images = "images" if self.headers[0].part is None else "frames"
        volume = self.volume and f", {self.volume}"
        return f"series {self.name}: {self.kind}, {len(self.headers)} {images}{size}{volume}"


def holds_dicom(folder: Path) -> bool:
    """Whether a folder or one below it holds DICOM files, and none of them other image files."""
    paths = files_under(folder, skip_unreadable=True)
    return not any(path.name.lower().endswith(ENDINGS) for path in paths) and any(map(is_dicom, paths))


def find_series(folder: Path) -> tuple[Series, ...]:
    """The series of images in a folder and its subfolders, told from the headers of the files.

    Files that do not begin as DICOM files do (``DICM`` at byte 128), hidden files, directories of media (DICOMDIR) and
    objects without pixels, such as reports, are passed over, unless they are called like the images beside them.

    Args:
        folder: may hold several series mixed.

    Returns:
        The series, ordered by name.

    Raises:
        MissingExtra: if pydicom is not installed.
        DataError: if there is no series, or a DICOM file is so damaged that its series cannot be told, or that nothing
            but its name tells that it is one.
    """
    headers, problems = read_folder(folder)
    if problems:
        # Passing over them would take the end off a volume unnoticed.
        raise unreadable(list(problems.values()))
    if not headers:
        raise none_found()
    return series_of(headers)


def read_folder(folder: Path) -> tuple[list[Header], dict[Path, str]]:
    """The headers of all images in a folder and its subfolders, and why files cannot be read.

    Returns:
        The headers, of enhanced objects those of their frames, in the order of the paths; and the reasons, by path,
        which say nothing of the path itself.

    Raises:
        MissingExtra: if pydicom is not installed.
        DataError: if the folder cannot be read.
    """
    pydicom = import_extra("DICOM", "pydicom")
    try:
        paths = files_under(folder)
    except DataError:
        raise DataError("the given folder, or one below it, does not exist or cannot be read; give another") from None
    headers: list[Header] = []
    problems: dict[Path, str] = {}
    passed_over = []
    for path in paths:
        try:
            image = read_header(pydicom, path)
        except Unusable as reason:
            problems[path] = str(reason)
            continue
        if image is not None:
            headers += headers_of(pydicom, image)
        else:
            passed_over.append(path)
    called = {_pattern(path) for path in {header.path for header in headers}}
    for path in passed_over:
        if _pattern(path) in called and not is_dicom(path):
            problems[path] = (
                "it is called like the images beside it, and does not begin as DICOM files do (DICM at byte 128)"
            )
    numbers = {path: number for number, path in enumerate(paths, 1)} if problems else {}
    return headers, {
        path: f"file {numbers[path]} of {len(paths)}, sorted by folder and name: {reason}"
        for path, reason in problems.items()
    }


def unreadable(problems: Sequence[str]) -> DataError:
    """The error that names files that cannot be read."""
    return DataError("DICOM files that cannot be read; copy them anew or remove them:", problems, listed=MAX_LISTED)


def none_found() -> DataError:
    """The error that says that there is no image."""
    return DataError(
        "no DICOM images found in the given folder (searched its subfolders too); "
        "expected unpacked files with DICM at byte 128; a folder of other images is read without --series"
    )


def series_of(headers: Iterable[Header]) -> tuple[Series, ...]:
    """The series that images form, ordered by name."""
    groups: dict[tuple[str, ...], list[Header]] = {}
    for image in headers:
        groups.setdefault((image.text("SeriesInstanceUID"), image.patient, image.study), []).append(image)
    numbers: dict[str, list[tuple[str, tuple[Header, ...]]]] = {}
    for _, images in sorted(groups.items()):
        numbers.setdefault(_whole(images)[0].short_number("SeriesNumber") or "x", []).extend(volumes_of(images))
    return tuple(
        Series(name if len(same) == 1 else f"{name}.{place}", _kind(images), images, volume)
        for name, same in sorted(numbers.items(), key=lambda item: natural_key(item[0]))
        for place, (volume, images) in enumerate(same, 1)
    )


def _whole(images: Sequence[Header]) -> Sequence[Header]:
    """The images whose headers did not end early, if there are any."""
    return [image for image in images if image.pixel_bytes] or images


def _kind(images: Sequence[Header]) -> str:
    kinds = {kind_of_header(image) for image in _whole(images)}
    return kinds.pop() if len(kinds) == 1 else "mixed"


def _pattern(path: Path) -> tuple[Path, str]:
    """Folder and name of a file without its numbers, which images of a series have in common."""
    return path.parent, re.sub(r"[0-9]+", "0", path.name.lower())


def assign_modalities(
    series: Sequence[Series],
    modalities: Sequence[str],
    chosen: Mapping[str, str] | None = None,
) -> dict[str, Series]:
    """Which series shows which modality.

    Without a choice, a modality is the one series whose kind bears its name; see `kind_of`. Series that a scanner or
    workstation computed from others (``DERIVED`` or ``SECONDARY`` in ``ImageType``) are taken only when chosen.

    Args:
        series: as `find_series` gives them.
        modalities: those that are wanted; names other than flair, t1, t1ce and t2 must be chosen.
        chosen: for some modalities the series' name or number, its UID, or a part of its description, in any case.

    Returns:
        Series by modality, in the order of ``modalities``.

    Raises:
        UnknownName: if a modality is chosen that is not wanted.
        DataError: if a series is missing, not unique, used twice, of another patient than the rest, or, unless chosen,
            of another study or frame of reference.
    """
    chosen = chosen or {}
    for modality in chosen:
        if modality not in modalities:
            raise UnknownName("modality", modality, modalities)
    listing = _listing(series)
    taken = {modality: _chosen_series(series, modality, choice, listing) for modality, choice in chosen.items()}
    found: dict[str, Series] = {}
    missing = []
    for modality in modalities:
        free = [one for one in series if one.kind == modality and one not in taken.values()]
        fitting = [taken[modality]] if modality in taken else free
        if len(fitting) > 1:
            names = first_of([one.name for one in fitting], MAX_LISTED)
            raise DataError(f"series {names} all fit {modality}; {_CHOOSE}. The folder holds:", listing)
        if fitting:
            found[modality] = fitting[0]
        else:
            missing.append(modality)
    if missing:
        fewer = "use fewer modalities (--modalities; of many studies, --require lets the others be absent)"
        wanted = f"no series found for {', '.join(missing)}; {fewer}, or {_CHOOSE}"
        raise DataError(f"{wanted}. The folder holds:", listing)
    _refuse_mixture(found, chosen, listing)
    return found


def _chosen_series(series: Sequence[Series], modality: str, choice: str, listing: Sequence[str]) -> Series:
    """The one series that a choice means: by its name or UID, else by its number, else by a part of its description."""
    fitting = [one for one in series if choice in (one.name, one.uid)]
    fitting = fitting or [one for one in series if choice == one.name.partition(".")[0]]
    # Digits are never a part of a description, since that of another series may well hold them.
    if not fitting and choice.strip() and not choice.isdecimal():
        fitting = [one for one in series if choice.lower() in one.description.lower()]
    if len(fitting) == 1:
        return fitting[0]
    # The choice itself may be a UID or hold a name.
    found = f"series {first_of([one.name for one in fitting], MAX_LISTED)} all fit" if fitting else "no series fits"
    raise DataError(f"{found} the choice for {modality}; {_CHOOSE}. The folder holds:", listing)


def _listing(series: Sequence[Series]) -> list[str]:
    """A line for each series; of the volumes of one that holds many, for the first."""
    lines = []
    for _, same in itertools.groupby(series, key=lambda one: one.uid):
        volumes = list(same)
        shown = volumes if len(volumes) <= MAX_LISTED else volumes[:1]
        lines += [one.describe() for one in shown]
        if len(shown) < len(volumes):
            lines.append(f"series {volumes[1].name} to {volumes[-1].name}: {len(volumes) - 1} more volumes of it")
    return lines


def _refuse_mixture(found: Mapping[str, Series], chosen: Mapping[str, str], listing: Sequence[str]) -> None:
    """Demand a series for each modality, all of one patient; unless chosen, of one study and frame of reference."""
    for (modality, one), (other_modality, other) in itertools.combinations(found.items(), 2):
        pair = f"{modality} (series {one.name}) and {other_modality} (series {other.name})"
        if one is other:
            raise DataError(f"{pair} are the same; choose another for one of them. The folder holds:", listing)
        a, b = one.headers[0], other.headers[0]
        if not a.same_patient(b):
            by = "PatientID" if a.patient != b.patient else "PatientName or PatientBirthDate"
            raise DataError(f"{pair} show different patients, by their {by}; give a folder with one of them")
        if modality in chosen and other_modality in chosen:
            continue
        if a.study != b.study:
            raise DataError(f"{pair} are of different studies; give a folder with one of them, or {_CHOOSE}")
        if a.frame != b.frame:
            raise DataError(
                f"{pair} have different frames of reference, so that their positions need not fit; register them, "
                f"or if they fit {_CHOOSE}"
            )
