"""Finding the studies in a folder that holds many, such as an export of an archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cggm_med.data.dicom.header import Header
from cggm_med.data.dicom.series import Series, none_found, read_folder, series_of, unreadable

_NAME_DIGITS = 12  # of a digest: two of a million studies bear the same name once in five hundred archives


@dataclass(frozen=True)
class Study:
    """The series that share a ``StudyInstanceUID``.

    Attributes:
        name: ``study_`` and the first digits of the SHA-256 of that UID: the same in every export, and nobody who does
            not have the UID can tell whose study it is.
        series: as `find_series` gives them.
        problems: why files beside its images cannot be read, which may well belong to it.
    """

    name: str
    series: tuple[Series, ...] = field(repr=False)
    problems: tuple[str, ...] = ()

    def require_whole(self) -> None:
        """Refuse a study of which something may be missing.

        Raises:
            DataError: if files beside its images cannot be read.
        """
        if self.problems:
            raise unreadable(self.problems)


def find_studies(folder: Path) -> tuple[Study, ...]:
    """The studies in a folder and its subfolders, told from the headers of the files, wherever these lie.

    A file that cannot be read does not say to which study it belongs. It is held against each study that has images in
    its folder or below; if there is none, in the nearest folder above it.

    Returns:
        The studies, by name.

    Raises:
        MissingExtra: if pydicom is not installed.
        DataError: if there is no image.
    """
    headers, problems = read_folder(folder)
    if not headers:
        raise unreadable(list(problems.values())) if problems else none_found()
    studies: dict[str, list[Header]] = {}
    for header in headers:
        studies.setdefault(f"study_{header.study[:_NAME_DIGITS]}", []).append(header)
    doubtful = _beside(studies, problems)
    return tuple(Study(name, series_of(studies[name]), tuple(doubtful.get(name, ()))) for name in sorted(studies))


def _beside(studies: Mapping[str, list[Header]], problems: Mapping[Path, str]) -> dict[str, list[str]]:
    """The problems with files by each study that they may belong to."""
    if not problems:
        return {}
    holding: dict[Path, set[str]] = {}
    for name, headers in studies.items():
        for place in {header.path.parent for header in headers}:
            for folder in (place, *place.parents):
                holding.setdefault(folder, set()).add(name)
    found: dict[str, list[str]] = {}
    for path, problem in problems.items():
        nearest = next(holding[folder] for folder in path.parents if folder in holding)
        for name in nearest:
            found.setdefault(name, []).append(problem)
    return found
