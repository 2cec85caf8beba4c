"""Tables of cases, CSV or TSV: a row for each case, a column for the files of each image, and others by their names."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cggm_med.data.cases import LABEL
from cggm_med.data.folders.listed import SECTION_OF, looks_like_image
from cggm_med.errors import DataError

ENDINGS = (".csv", ".tsv")
EXPECTED = "a first line such as 'id,t1,flair,label', and a line for each case with the paths of its files"
# What an entry of a list calls a column, by its header in lower case without separators and words for a file.
_MEANINGS = {
    **dict.fromkeys(("id", "case", "caseid", "name", "uid", "scan", "scanid", "session", "sessionid"), "id"),
    **dict.fromkeys(("patient", "patientid", "subject", "subjectid", "participant", "participantid"), "patient"),
    **dict.fromkeys(("label", "labels", "seg", "segmentation", "mask", "target", "groundtruth", "gt"), LABEL),
    **dict.fromkeys(("section", "split", "set", "subset", "partition"), "section"),
    "fold": "fold",
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
    rows = _rows(file)
    columns = list(rows[0]) if rows else []
    with_files = {column for column in columns if _names_files([row[column] for row in rows])}
    meanings = {column: _MEANINGS.get(_plain(column), "") for column in columns}
    meanings |= {column: "" for column in with_files if meanings[column] != LABEL}  # a "scan" that is no id
    of_images = [column for column in columns if column in with_files and not meanings[column]]
    if not of_images:
        raise DataError(f"{file} has no column with files of images; expected {EXPECTED}")
    names = {c: re.sub(r"[-_. ]*(path|file|filename)$", "", c, flags=re.IGNORECASE) or c for c in of_images}
    told_by = {column: names.get(column) or meanings[column] for column in columns}
    if twice := [told for told, count in Counter(told_by.values()).items() if told and count > 1]:
        those = [column for column in columns if told_by[column] in twice]
        raise DataError(f"{file} has several columns for one thing: {', '.join(those)}; keep one of them")
    problems: list[str] = []
    sections: dict[str, list[dict[str, str]]] = {}
    for number, row in enumerate(rows, 2):  # the first line has the columns' names
        told = {meaning: row[column] for column, meaning in meanings.items() if meaning and row[column]}
        images = {names[column]: row[column] for column in of_images if row[column]}
        section = SECTION_OF.get(told.pop("section", "training").lower())
        if section is None:
            problems.append(f"line {number}: its section is none of {', '.join(SECTION_OF)}")
        elif not images:
            problems.append(f"line {number} names no image")
        else:
            sections.setdefault(section, []).append({**images, **told})
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


def _rows(file: Path) -> list[Mapping[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        separator = max("\t;,", key=text.partition("\n")[0].count)
        header, *lines = [*csv.reader(io.StringIO(text, newline=""), delimiter=separator)] or [[]]
        if len(set(header)) < len(header):
            raise DataError(f"{file} has two columns of one name ({', '.join(header)}); name them apart")
        cells = [[*map(str.strip, line), *[""] * len(header)] for line in lines if any(line)]
        return [dict(zip(header, line, strict=False)) for line in cells]
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file} is no table in UTF-8 ({error}); expected {EXPECTED}") from error


def _plain(column: str) -> str:
    return re.sub(r"(path|file|filename)$", "", re.sub(r"[\W_]+", "", column.lower()))


def _names_files(cells: Sequence[Any]) -> bool:
    return any(cells) and all(looks_like_image(cell) for cell in cells if cell)
