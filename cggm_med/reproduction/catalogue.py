"""Every table and figure that can be made again, by name."""

from __future__ import annotations

from cggm_med.errors import UnknownName
from cggm_med.reproduction import cggm, dgs, ogm
from cggm_med.reproduction.paper_table import PaperTable

TABLES = {table.name: table for table in (*cggm.TABLES, *ogm.TABLES, *dgs.TABLES)}


def find(name: str) -> PaperTable:
    """The table of that name.

    Raises:
        UnknownName: if there is none; names the nearest.
    """
    if name not in TABLES:
        raise UnknownName("table", name, TABLES, "'cggm-med reproduce --list' says what each shows")
    return TABLES[name]


def listing() -> list[str]:
    """A line for each, by paper: its name, what it shows, and whether published numbers are known here."""
    width = max(map(len, TABLES))
    lines: list[str] = []
    for paper in dict.fromkeys(table.paper for table in TABLES.values()):
        lines.append(f"{paper.title}, {paper.url}")
        of_paper = [table for table in TABLES.values() if table.paper == paper]
        lines += [f"  {table.name:{width}} {table.shows}  [{table.known}]" for table in of_paper]
    return lines
