"""Tables of cases, CSV or TSV: a row for each case, a column for the files of each image, and others by their names."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from pathlib import Path

from cggm_med.data.cases import LABEL
from cggm_med.data.folders.listed import ID_KEYS, LABEL_KEYS, PATIENT_KEYS, SECTION_OF, looks_like_image
from cggm_med.errors import DataError

TABLE_ENDINGS = (".csv", ".tsv")
EXPECTED = "a first line such as 'id,t1,flair,label', and a line for each case with the paths of its files"
# What an entry of a list calls a column, by its header as ``_plain`` reads it: lists' own keys, and what tables say.
_HEADERS = {
    "id": (*ID_KEYS, "scan", "scan_id", "session", "session_id"),
    "patient": (*PATIENT_KEYS, "participant", "participant_id"),
    LABEL: (*LABEL_KEYS, "ground_truth", "gt"),
    "section": ("section", "split", "set", "subset", "partition"),
    "fold": ("fold",),
}


def read_table(file: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of a table as the sections of a datalist.

    Args:
        file: whose separator is a comma, a semicolon or a tab.

    Returns:
        By section (``training``, ``validation``, ``test``), an entry for each row: the files of its images by their
        columns, and ``id``, ``patient``, ``label`` and ``fold`` where columns say them.

    Raises:
        DataError: if it cannot be read, has no column of images, or a row has no image or an unknown section.
    """
    columns, rows = _rows(file)
    cells = {column: [row[column] for row in rows.values() if row[column]] for column in columns}
    files = {column for column in columns if cells[column] and all(map(looks_like_image, cells[column]))}
    told_by = {column: meaning_of(column) for column in columns}
    told_by |= {column: "" for column in files if told_by[column] != LABEL}  # a "scan" that is no id
    names = {column: named(column) or column for column in columns if column in files and not told_by[column]}
    if not names:
        raise DataError(f"{file} has no column with files of images; expected {EXPECTED}")
    told_by |= names
    if twice := [told for told, count in Counter(told_by.values()).items() if told and count > 1]:
        those = [column for column in columns if told_by[column] in twice]
        raise DataError(f"{file} has several columns for one thing: {', '.join(those)}; keep one of them")
    problems: list[str] = []
    sections: dict[str, list[dict[str, str]]] = {}
    for number, row in rows.items():
        entry = {told: row[column] for column, told in told_by.items() if told and row[column]}
        section = SECTION_OF.get(entry.pop("section", "training").lower())
        if section is None:
            problems.append(f"line {number}: its section is none of {', '.join(SECTION_OF)}")
        elif entry.keys().isdisjoint(names.values()):
            problems.append(f"line {number} names no image")
        else:
            sections.setdefault(section, []).append(entry)
    if problems:
        raise DataError(f"{file} cannot be used as it is; expected {EXPECTED}:", problems)
    return _with_ids(sections)


def _with_ids(sections: dict[str, list[dict[str, str]]]) -> dict[str, list[dict[str, str]]]:
    """The same, where patients who have one row each give cases that have no id theirs."""
    entries = [entry for of in sections.values() for entry in of]
    patients = {entry.get("patient", "") for entry in entries}
    if "" in patients or len(patients) < len(entries) or any("id" in entry for entry in entries):
        return sections
    return {name: [{"id": entry["patient"], **entry} for entry in of] for name, of in sections.items()}


def _rows(file: Path) -> tuple[list[str], dict[int, dict[str, str]]]:
    """The headers, and the cells of each row by them, by the number of the line where the row ends."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        separator = max("\t;,", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        header = next(reader, [])
        rows = {}
        for line in filter(any, reader):
            cells = [*map(str.strip, line), *[""] * len(header)]
            rows[reader.line_num] = dict(zip(header, cells, strict=False))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file} is no table in UTF-8 ({error}); expected {EXPECTED}") from error
    if len(set(header)) < len(header):
        raise DataError(f"{file} has two columns of one name ({', '.join(header)}); name them apart")
    return header, rows


def meaning_of(header: str) -> str:
    """What a column tells that is no image: ``id``, ``patient``, ``label``, ``section`` or ``fold``; else nothing.

    Example:
        >>> [meaning_of(header) for header in ("Case ID", "Seg_path", "flair")]
        ['id', 'label', '']
    """
    plain = _plain(header)
    return next((meaning for meaning, headers in _HEADERS.items() if plain in map(_plain, headers)), "")


def named(header: str) -> str:
    """A header without what says that files stand below it: ``T1`` of ``T1_path``."""
    return re.sub(r"[-_. ]*(path|file|filename)$", "", header, flags=re.IGNORECASE)


def _plain(header: str) -> str:
    """A header as those are compared that name one thing."""
    return re.sub(r"[\W_]+", "", named(header).lower())
