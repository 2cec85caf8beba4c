"""The cases of a cohort of any size, one after the other, and which share of them is whose."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cggm_med.data.cases import can_be_id, stem
from cggm_med.data.folders.case_table import EXPECTED, TABLE_ENDINGS, meaning_of, named
from cggm_med.data.folders.listed import looks_like_image
from cggm_med.errors import ConfigError, DataError, UnknownName
from cggm_med.files import did_you_mean


@dataclass(frozen=True)
class Shard:
    """One of several shares of a cohort; which one a case belongs to, its name alone decides.

    Attributes:
        number: from 1 to ``count``.
        count: how many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that ``K/N`` names.

        Raises:
            ConfigError: for any other text.

        Example:
            >>> Shard.parse("3/64")
            Shard(number=3, count=64)
        """
        matched = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if matched is None or not 1 <= int(matched[1]) <= int(matched[2]):
            raise ConfigError(f"--shard {text}: expected K/N with K from 1 to N, such as 3/64")
        return cls(int(matched[1]), int(matched[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def holds(self, name: str) -> bool:
        """Whether a case belongs to it."""
        return shard_of(name, self.count) == self.number


def shard_of(name: str, count: int) -> int:
    """Number of the shard, among ``count``, that a case belongs to.

    It does not depend on any other case, and is the same on every machine and in every version.

    Example:
        >>> [shard_of(name, 4) for name in ("BraTS2021_00000", "BraTS2021_00001", "BraTS2021_00002")]
        [2, 4, 1]
    """
    return int(_digest(name), 16) % count + 1


def folder_of(name: str) -> str:
    """One of 256 folders for the files of a case, so that no folder becomes too long to list.

    Example:
        >>> folder_of("BraTS2021_00000")
        '8b'
    """
    return _digest(name)[:2]


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Listed:
    """One case of a cohort, of which nothing has been opened.

    Attributes:
        name: of its folder, or as its row calls it.
        folder: that holds its files; None if a table names them.
        images: those files, by modality.
    """

    name: str
    folder: Path | None = None
    images: Mapping[str, Path] = field(default_factory=dict)


def cases_of(cohort: Path, modalities: Sequence[str], shard: Shard = Shard(1, 1)) -> Iterator[Listed]:
    """The cases of a cohort or of one of its shards, in no particular order; one at a time is held in memory.

    Args:
        cohort: a folder that holds a folder for each case; or a table (CSV or TSV, see ``case_table``) with a row for
            each, whose paths are absolute or relative to it.
        modalities: whose columns a table may have.
        shard: whose cases are wanted.

    Raises:
        UnknownName: for a column of images in a table that is none of the modalities'.
        DataError: when it turns out not to be such a cohort; names the file, or the line of the table.

    Example:
        >>> import tempfile
        >>> cohort = Path(tempfile.mkdtemp())
        >>> (cohort / "case1").mkdir()
        >>> [case.name for case in cases_of(cohort, ["flair"])]
        ['case1']
    """
    if cohort.is_dir():
        return _folders(cohort, shard)
    if not cohort.exists():
        raise DataError(f"{cohort} does not exist{did_you_mean(cohort)}; expected {_COHORT}")
    if cohort.suffix.lower() not in TABLE_ENDINGS:
        raise DataError(f"{cohort} cannot be read case by case; expected {_COHORT}; or leave out --shard")
    return _rows(cohort, modalities, shard)


_COHORT = f"a folder with a folder for each case, or a table (.csv, .tsv) with {EXPECTED}"


def _folders(cohort: Path, shard: Shard) -> Iterator[Listed]:
    none = True
    try:
        with os.scandir(cohort) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if stem(entry.name) and entry.is_file():
                    raise DataError(
                        f"{entry.path} lies beside the folders of cases; expected {_COHORT}; or leave out --shard"
                    )
                # Of other shards it need not be known, once it is known that there are cases.
                if (none or shard.holds(entry.name)) and entry.is_dir():
                    none = False
                    if shard.holds(entry.name):
                        yield Listed(entry.name, Path(entry.path))
    except OSError as error:
        raise DataError(f"cannot read folder {cohort}: {error.strerror}; allow it or give another") from error
    if none:
        raise DataError(f"{cohort} holds no folder; expected {_COHORT}")


def _rows(table: Path, modalities: Sequence[str], shard: Shard) -> Iterator[Listed]:
    none = True
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            separator = max("\t;,", key=first.count)
            columns = _columns(table, next(csv.reader([first], delimiter=separator), []), modalities)
            reader, where_id = csv.reader(file, delimiter=separator), columns.index("id")
            for row in filter(any, reader):
                name = row[where_id].strip() if where_id < len(row) else ""
                if not can_be_id(name):
                    raise DataError(f"line {reader.line_num + 1} of {table}: id {name!r} cannot be a file name")
                if none:
                    _require_known(dict(zip(columns, row, strict=False)), modalities)
                none = False
                if shard.holds(name):
                    cells = dict(zip(columns, map(str.strip, row), strict=False))
                    yield Listed(name, None, {m: table.parent / cells[m] for m in modalities if cells.get(m)})
    except OSError as error:
        raise DataError(f"cannot read {table}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{table} is no table in UTF-8 ({error}); expected {EXPECTED}") from error
    if none:
        raise DataError(f"{table} lists no case; expected {EXPECTED}")


def _columns(table: Path, header: Sequence[str], modalities: Sequence[str]) -> list[str]:
    """What each column tells: ``id``, a modality, or else what its header says."""
    own = {m.lower(): m for m in modalities}
    columns = [own.get((named(h) or h).strip().lower()) or meaning_of(h) or h.strip() for h in header]
    for needed in ("id", *(m for m in modalities if columns.count(m) > 1)):
        if columns.count(needed) != 1:
            raise DataError(f"{table} has {columns.count(needed)} columns of {needed}; expected {EXPECTED}")
    return columns


def _require_known(cells: Mapping[str, str], modalities: Sequence[str]) -> None:
    """Refuse what is probably a modality by another name: its images would be left out of every case."""
    for column, cell in cells.items():
        if column not in modalities and not meaning_of(column) and looks_like_image(cell.strip()):
            raise UnknownName("modality in this run", column, modalities, "It heads a column with images")
