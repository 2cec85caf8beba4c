"""A table of a paper as Markdown, CSV and JSON: each figure of this package beside the published one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cggm_med.files import write_json, write_text
from cggm_med.reproduction.cells import RULES
from cggm_med.reproduction.outcome import MARK, Outcome, whose_data
from cggm_med.reproduction.paper_table import ADDED_MEGABYTES, NOT_KNOWN, Column, Row
from cggm_med.results.tables import Table, csv_text, markdown_table

FILES = ("table.json", "table.md", "table.csv")


def write(folder: Path, outcome: Outcome) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json``; older ones there are replaced.

    Args:
        folder: to write to.
        outcome: what came out.
    """
    table = outcome.table
    content = {
        "what": MARK if outcome.phantom else "trained on the data of --data",
        "table": table.name,
        "paper": asdict(table.paper),
        "shows": table.shows,
        "task": table.task,
        "seeds": list(outcome.seeds),
        "folds": outcome.folds,
        "changed": list(outcome.changed),
        "cells": _rows(outcome),
        "differs": list(table.differs),
        "excluded": [asdict(run) for run in outcome.excluded],
        "figures": list(outcome.figures),
        "rules": _rules(outcome),
        "provenance": dict(outcome.provenance),
    }
    write_json(folder / FILES[0], content)  # first, since it says whose the others are
    write_text(folder / "table.md", markdown(outcome))
    write_text(folder / "table.csv", csv_text(_rows(outcome)))


def shown(outcome: Outcome) -> Table:
    """The table as the paper has it, with two columns for each of the paper's: here, and published.

    Over generated data every column says so, lest a figure be read beside a published one.
    """
    table = outcome.table
    here = MARK if outcome.phantom else "here"
    header = ("", *(f"{_unit(column)}, {of}" for column in table.columns for of in (here, "published")))
    rows = []
    for row in table.rows:
        texts = [_marked(row)]
        for column in table.columns:
            cell = outcome.cell(row, column)
            texts += [cell.text(column.digits), cell.published]
        rows.append(tuple(texts))
    return Table(_title(outcome), header, tuple(rows))


def shown_in_terminal(outcome: Outcome) -> Table:
    """The same with both figures in one cell, since a terminal has no room for more columns."""
    table = outcome.table
    rows = []
    for row in table.rows:
        cells = [(outcome.cell(row, column), column) for column in table.columns]
        texts = (f"{cell.text(column.digits)}\npaper: {cell.published}" for cell, column in cells)
        rows.append((_marked(row), *texts))
    return Table(_title(outcome), ("", *map(_unit, table.columns)), tuple(rows))


def markdown(outcome: Outcome) -> str:
    """The whole page."""
    table, paper = outcome.table, outcome.table.paper
    body = shown(outcome)
    data = MARK if outcome.phantom else table.data.title
    preset = f"tiny settings, not those of the paper ({table.preset})" if outcome.phantom else f"preset {table.preset}"
    folds = f", {outcome.folds} folds" if outcome.folds else ""
    parts = [
        f"# {table.name}: {table.shows}",
        f"**{MARK.capitalize()}: this page shows that everything runs, and nothing about the paper.**"
        if outcome.phantom
        else "",
        f"{paper.title}, {paper.url}. Code of the authors: {paper.release}, as of commit {paper.commit}.",
        f"Task {table.task}, {preset}, seeds {', '.join(map(str, outcome.seeds))}{folds}; data: {data}.",
        markdown_table(body.header, body.rows),
        f'\\* not in the paper, added here. "{NOT_KNOWN}": the paper may have the figure; it was not read on any page.',
        *(f"![{name}](figures/{name})" for name in outcome.figures),
        "## What trains each row",
        markdown_table(("row", "strategy"), [(row.name, f"`{row.variant}`") for row in table.rows]),
        _section("What differs from the paper, and why", table.differs),
        "Letters with numbers in brackets are rows of the audit of the releases, `docs/explanation/algorithms.md`.",
        _section("Settings that were changed", outcome.changed),
        _section("Where the published figures were read", _sources(outcome)),
        _section("Runs that take no part", [f"{run.run}: {run.reason}" for run in outcome.excluded]),
        _section("How it was computed", [f"{name}: {text}" for name, text in _rules(outcome).items()]),
        _section("Where it comes from", [f"{name}: {text}" for name, text in outcome.provenance.items()]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}\n", *(f"- {line}" for line in lines)]) if lines else ""


def _sources(outcome: Outcome) -> list[str]:
    return [
        f"{row}, {column}: {published.figure}, {published.source}"
        for (row, column), published in outcome.table.published.items()
    ]


def _rules(outcome: Outcome) -> dict[str, str]:
    return {name: text for name, text in RULES.items() if outcome.table.counts_memory or name != ADDED_MEGABYTES}


def _title(outcome: Outcome) -> str:
    return f"{outcome.table.name}: {outcome.table.shows}" + (f" ({MARK})" if outcome.phantom else "")


def _marked(row: Row) -> str:
    return row.name + (" *" if row.added else "")


def _unit(column: Column) -> str:
    return f"{column.name} (%)" if column.percent else column.name


def _rows(outcome: Outcome) -> list[dict[str, Any]]:
    """One row per cell."""
    rows = []
    for cell in outcome.cells:
        plain = asdict(cell)
        low, high = plain.pop("interval") or (None, None)
        published = outcome.table.published.get((cell.row, cell.column))
        source = None if published is None else published.source
        rows.append({**plain, "low": low, "high": high, "source": source, "data": whose_data(outcome.phantom)})
    return rows
