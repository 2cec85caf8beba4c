"""A folder with what a finished run was asked: tables as JSON, CSV and Markdown, and a picture, all of them or none."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from cggm_med.errors import OutputError
from cggm_med.files import atomic_folder, write_json, write_text
from cggm_med.report import Record, Report


def require_new(out: Path | None) -> None:
    """Refuse a folder that holds files already, before anything is computed for it.

    Raises:
        OutputError: if it does, or is a file.
    """
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise OutputError(f"{out} is there already; choose another folder with --out")


def write_results(folder: Path, report: Report, draw: Callable[[Path], None]) -> None:
    """Write ``results.json``, ``results.csv`` (the report's rows of cases), ``results.md`` and a picture.

    Args:
        folder: that holds nothing yet.
        report: what to write.
        draw: writes the picture into the folder that it is given.

    Raises:
        OutputError: if they cannot be written.
    """
    with atomic_folder(folder) as temporary:
        write_json(temporary / "results.json", report.to_json())
        write_text(temporary / "results.csv", csv_text(report.scores.cases))
        write_text(temporary / "results.md", report.to_markdown())
        draw(temporary)


def csv_text(rows: Sequence[Record]) -> str:
    """Rows that all have the keys of the first, below these keys.

    Example:
        >>> csv_text([{"case": "a", "dice": 0.5}, {"case": "b", "dice": None}]).splitlines()
        ['case,dice', 'a,0.5', 'b,']
    """
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
