"""The page of a comparison: all tables, notes and figures in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cggm_med.comparison.compare import Comparison
from cggm_med.comparison.costs import cost_table
from cggm_med.comparison.curves import curves_table
from cggm_med.comparison.notes import notes
from cggm_med.comparison.subset_tables import order_table, subset_table
from cggm_med.comparison.tables import RULES, excluded_table, metric_tables
from cggm_med.pages.page import Section, Templates
from cggm_med.pages.pictures import Picture, embedded_chart
from cggm_med.pages.tables import HtmlTable, html_table, number_cells
from cggm_med.results.tables import Table

PAGES = Templates(Path(__file__).with_name("templates"))


def comparison_page(
    title: str,
    summary: str,
    comparison: Comparison,
    runs: Sequence[Mapping[str, Any]],
    rules: Mapping[str, str],
    figures: Mapping[Path, str],
    provenance: Mapping[str, str],
) -> Markup:
    """The page, which needs no other file.

    Args:
        title: of the page.
        summary: what it is about, in a sentence.
        comparison: what is shown.
        runs: see ``written.run_rows``.
        rules: how the runs were scored.
        figures: what each PNG file shows.
        provenance: command, versions and the like.
    """
    first, *others = metric_tables(comparison)

    def pictures(*names: str) -> list[Picture]:
        return [
            embedded_chart(path, what, what[0].upper() + what[1:], None)
            for path, what in figures.items()
            if path.name in names
        ]

    excluded = excluded_table(comparison)
    budget, order, subsets = curves_table(comparison), order_table(comparison), subset_table(comparison)
    columns = list(dict.fromkeys(key for run in runs for key in run))
    of_runs = html_table("", columns, [[run.get(key) for key in columns] for run in runs], label="runs", sortable=True)
    sections = [
        _section("Scores", pictures("comparison.png"), [first], notes(comparison)),
        _section("Other metrics", tables=others),
        _section("Over the budget", pictures("curves.png"), [budget]),
        _section("Subsets of the modalities", pictures("subsets.png"), [order, subsets]),
        _section("Cost", pictures("cost.png"), [cost_table(comparison)]),
        _section("Runs", tables=[of_runs, excluded]),
        _section("How it was computed", definitions=[("", RULES), ("How the runs were scored", rules)]),
        _section("Provenance", definitions=[("", provenance)]),
    ]
    return PAGES.page(
        "comparison.html", title=title, summary=summary, sections=[section for section in sections if section.body]
    )


def _section(
    title: str,
    pictures: Sequence[Picture] = (),
    tables: Sequence[Table | HtmlTable | None] = (),
    lines: Sequence[str] = (),
    definitions: Sequence[tuple[str, Mapping[str, str]]] = (),
) -> Section:
    """A section; without a body where it has nothing to show."""
    shown = [_html(table) if isinstance(table, Table) else table for table in tables if table is not None]
    if not (pictures or shown or lines or any(pairs for _, pairs in definitions)):
        return Section(title, Markup(""))
    pairs = [(heading, list(rules.items())) for heading, rules in definitions]
    return Section(
        title, PAGES.render("part.html", pictures=pictures, tables=shown, lines=lines, definitions=pairs), wide=True
    )


def _html(table: Table) -> HtmlTable:
    caption = table.title[0].upper() + table.title[1:]
    return html_table(caption, table.header, map(number_cells, table.rows), sortable=len(table.rows) > 2)
