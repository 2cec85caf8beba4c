"""A folder with what a finished run was asked: tables as JSON, CSV and Markdown, and pictures, all of them or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cggm_med.files import atomic_folder, write_json, write_text
from cggm_med.results.results import Report
from cggm_med.results.tables import csv_text


def write_results(folder: Path, report: Report, more: Callable[[Path], object]) -> None:
    """Write ``results.json``, ``results.csv`` (the report's rows of cases), ``results.md`` and more.

    Args:
        folder: that holds nothing yet.
        report: what to write.
        more: writes pictures and further tables into the folder that it is given.

    Raises:
        OutputError: if they cannot be written.
    """
    with atomic_folder(folder) as temporary:
        write_json(temporary / "results.json", report.to_json())
        write_text(temporary / "results.csv", csv_text(report.scores.cases))
        write_text(temporary / "results.md", report.to_markdown())
        more(temporary)
