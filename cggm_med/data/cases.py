"""What a case is: the images of one examination by modality, its label, and whom it shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LABEL = "label"
MAX_ID = 128  # characters of a case's id
SECTIONS = ("training", "validation", "test")
# Of image files, by which they are found; ``volumes.io`` reads them. Of a pair, the header stands for both files.
ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".hdr")


@dataclass(frozen=True)
class ImageFile:
    """Where one modality lies: a 3-D file, or one ``channel`` along the fourth axis of a 4-D file."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class RegionFile:
    """Where one region was drawn: the voxels of a file that are not 0, of one of its channels or of one number."""

    path: Path
    channel: int | None = None
    value: int | None = None


@dataclass(frozen=True)
class RegionFiles:
    """A label map in several files, one for each region.

    Attributes:
        files: by region, or by meaning of a label number; None where it was looked for and nothing is there. Files of
            one name are parts of one region.

    Example:
        >>> label = RegionFiles((("liver", RegionFile(Path("liver.nii"))), ("tumour", None)))
        >>> str(label), [path.name for path in label.paths]
        ('liver liver.nii', ['liver.nii'])
    """

    files: tuple[tuple[str, RegionFile | None], ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Each file once."""
        return tuple(dict.fromkeys(file.path for _, file in self.files if file is not None))

    def __str__(self) -> str:
        return ", ".join(f"{name} {file.path}" for name, file in self.files if file is not None)


LabelFile = Path | RegionFiles


@dataclass(frozen=True)
class Case:
    """One examination.

    Attributes:
        id: of the case.
        patient: whom it shows.
        images: by modality, in the order that was asked for; those that the case lacks are left out.
        label: file with the label map, or the files of its regions, if there are any.
        convention: name of the label map's convention, where the cases of a data set follow several.
        not_drawn: regions that nobody drew in this case: their absence from the label map says nothing.
        raters: label maps of single readers, by name, beside ``label``.
        fold: of a cross-validation in which the case is tested, if the data set declares one.
    """

    id: str
    patient: str
    images: Mapping[str, ImageFile]
    label: LabelFile | None
    convention: str | None = None
    not_drawn: tuple[str, ...] = ()
    raters: Mapping[str, LabelFile] = field(default_factory=dict)
    fold: str | None = None

    @property
    def labels(self) -> dict[str, LabelFile]:
        """Every label map by its role: ``label``, and ``label of NAME`` for each reader."""
        own: dict[str, LabelFile] = {} if self.label is None else {LABEL: self.label}
        return own | {f"{LABEL} of {name}": path for name, path in self.raters.items()}

    @property
    def group(self) -> str:
        """What must not be divided among splits: the patient."""
        return self.patient


@dataclass(frozen=True)
class CaseList:
    """Cases in natural order of their ids, and what their layout told about them.

    Attributes:
        cases: the cases; ``case10`` follows ``case9``.
        layout: name of a ``NamedFiles`` layout, ``"decathlon"`` or ``"datalist"``.
        label_convention: name of the label convention if the layout implies one.
        sections: ids in each section of a datalist; None for other layouts.
    """

    cases: tuple[Case, ...]
    layout: str
    label_convention: str | None
    sections: Mapping[str, tuple[str, ...]] | None


def label_paths(label: LabelFile) -> tuple[Path, ...]:
    """The files that a label map consists of."""
    return (label,) if isinstance(label, Path) else label.paths


def can_be_id(text: str) -> bool:
    """Whether a text can be a case's id: results are written under it, so it must name a file.

    Example:
        >>> [can_be_id(id) for id in ("BraTS2021_00000", "../a", "..", "")]
        [True, False, False, False]
    """
    return re.fullmatch(rf"(?!\.+$)[^/\\\x00-\x1f]{{1,{MAX_ID}}}", text) is not None


def stem(name: str) -> str:
    """An image file's name without its ending; empty for any other file.

    Example:
        >>> [stem(name) for name in ("a.nii.gz", "b.v2.MHA", "c.json")]
        ['a', 'b.v2', '']
    """
    return next((name[: -len(ending)] for ending in ENDINGS if name.lower().endswith(ending)), "")


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Sort key by which numbers inside a name count as numbers.

    Example:
        >>> sorted(["case10", "case9"], key=natural_key)
        ['case9', 'case10']
    """
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)], text
