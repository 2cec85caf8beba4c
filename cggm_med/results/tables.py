"""Tables for people, for papers and for spreadsheets: in a terminal, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table as ConsoleTable

MAX_ROWS = 200  # of a table in Markdown; results.json has them all
_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    **{"±": r"$\pm$", "<": "$<$", ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$", "×": r"$\times$", "[": "{[}"},
}


@dataclass(frozen=True)
class Table:
    """A table for people: numbers are rounded text.

    Attributes:
        title: above it; empty where the title of the whole document says enough.
        header: names of the columns.
        rows: cells.
        detail: whether it is too long for a terminal.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    detail: bool = False


def print_table(table: Table, console: Console, *, title: str = "", fold: bool = False) -> None:
    """Show a table in a terminal.

    Args:
        table: to show.
        console: to print to.
        title: for a table that has none.
        fold: break long words in a narrow terminal, for rows that differ in the ends of words, but not those of the
            header if they fit; otherwise only columns with spaces become narrower, and single words stay whole.
    """
    shown = ConsoleTable(title=table.title or title)
    longest = [max(map(len, name.split()), default=0) for name in table.header]
    fit = sum(longest) + 3 * len(longest) + 1 <= console.width  # with the lines and spaces between the columns
    for i, name in enumerate(table.header):
        spaces = any(" " in text for text in (name, *(row[i] for row in table.rows)))
        overflow: Literal["fold", "ellipsis"] = "fold" if fold else "ellipsis"
        least = longest[i] if fold and fit else None
        shown.add_column(name, overflow=overflow, no_wrap=not (fold or spaces), min_width=least)
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)


def plain_table(table: Table) -> dict[str, Any]:
    """A table as plain values, each row by column.

    Example:
        >>> plain_table(Table("grids", ("shape", "mm"), (("8 x 8 x 8", "1"),)))
        {'title': 'grids', 'rows': [{'shape': '8 x 8 x 8', 'mm': '1'}]}
    """
    return {"title": table.title, "rows": [dict(zip(table.header, row, strict=True)) for row in table.rows]}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex_table(table: Table, caption: str) -> str:
    r"""A table as LaTeX, which needs the package booktabs.

    Example:
        >>> print(latex_table(Table("", ("strategy", "mean"), (("joint_a", "0.905 ± 0.05"),)), "50 % of cases."))
        \begin{table}
        \caption{50 \% of cases.}
        \begin{tabular}{ll}
        \toprule
        strategy & mean \\
        \midrule
        joint\_a & 0.905 $\pm$ 0.05 \\
        \bottomrule
        \end{tabular}
        \end{table}
    """
    lines = [" & ".join(map(latex_text, row)) + r" \\" for row in (table.header, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{latex_text(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def latex_text(text: str) -> str:
    """Text in which nothing is a command of LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text.replace("`", ""))


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV with a line of names; a value that is not defined, or that a row does not have, is left empty.

    Args:
        rows: values by column.
        columns: those that stand first, and are there without any row.

    Example:
        >>> csv_text([{"case": "a", "dice": 0.5}, {"case": "b", "dice": None}]).splitlines()
        ['case,dice', 'a,0.5', 'b,']
    """
    text = io.StringIO()
    table = csv.DictWriter(
        text, list(dict.fromkeys([*columns, *(key for row in rows for key in row)])), lineterminator="\n"
    )
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def percent(share: float) -> str:
    """A share as text.

    Example:
        >>> percent(0.0625)
        '6.2 %'
    """
    return f"{100 * share:.1f} %"


def signed(value: float | None) -> str:
    """A difference as text; a dash where there is none."""
    return "-" if value is None else f"{value:+.3f}"


def p_text(p: float | None) -> str:
    """A p-value as text; a dash where there is none."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def rounded(value: float | None, digits: int = 3) -> str:
    """A number as text; a dash where it is not defined.

    Example:
        >>> rounded(0.12345), rounded(-0.04, 1), rounded(None)
        ('0.123', '0.0', '-')
    """
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0 takes the sign off -0
