"""The scores of an evaluation, with the rules behind them and where they come from, as table, JSON and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as ConsoleTable

Record = Mapping[str, Any]
CaseValues = dict[str, dict[str, tuple[float, float]]]  # by score and case: a sum, and of how many values

MOST_ROWS = 200  # of a table in Markdown; results.json has them all


@dataclass(frozen=True)
class Table:
    """A table for people: numbers are rounded text.

    Attributes:
        title: above it; empty where the report's own title says enough.
        header: names of the columns.
        rows: cells.
        detail: too long for a terminal.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    detail: bool = False


@dataclass(frozen=True)
class Scores:
    """How well cases were predicted.

    Attributes:
        headline: the few numbers that stand for all, by name; None where not defined; logged at each validation.
        summary: what all cases say together, a row for each region, or for the fused prediction and each head.
        cases: a row for each case, and region if there are any.
        heads: the same for each modality's own classifier head; empty without heads.
        tables: all this for people.
    """

    headline: Mapping[str, float | None]
    summary: tuple[Record, ...]
    cases: tuple[Record, ...]
    heads: tuple[Record, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Report:
    """Everything that is said about one evaluation.

    Attributes:
        task, strategy: registered names.
        split: which cases were scored.
        scores: how well they were predicted.
        rules: definitions of the scores.
        provenance: command, versions, seed and the like.
    """

    task: str
    strategy: str
    split: str
    scores: Scores
    rules: Mapping[str, str]
    provenance: Mapping[str, str]

    @property
    def title(self) -> str:
        """What was scored, in one line."""
        cases = len({row["case"] for row in self.scores.cases})
        return f"{self.task}, {self.strategy}: {cases} cases, split {self.split}"

    def to_json(self) -> dict[str, Any]:
        """Plain values: the fields of the report and of its scores side by side."""
        plain = asdict(self)
        scores = plain.pop("scores")
        return {**plain, **{name: list(x) if isinstance(x, tuple) else x for name, x in scores.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """The report that ``to_json`` wrote."""
        tables = tuple(
            Table(t["title"], tuple(t["header"]), tuple(map(tuple, t["rows"])), t["detail"]) for t in content["tables"]
        )
        return cls(
            task=content["task"],
            strategy=content["strategy"],
            split=content["split"],
            scores=Scores(
                headline=content["headline"],
                summary=tuple(content["summary"]),
                cases=tuple(content["cases"]),
                heads=tuple(content["heads"]),
                tables=tables,
            ),
            rules=content["rules"],
            provenance=content["provenance"],
        )

    def to_markdown(self) -> str:
        """Tables and lists for people."""
        parts = [f"# {self.title}"]
        for table in self.scores.tables:
            if table.title:
                parts.append(f"## {table.title[0].upper()}{table.title[1:]}")
            parts.append(markdown_table(table.header, table.rows[:MOST_ROWS]))
            if len(table.rows) > MOST_ROWS:
                parts.append(f"The first {MOST_ROWS} of {len(table.rows)} rows; `results.json` has them all.")
        parts += ["## How it was scored", "\n".join(f"- {name}: {text}" for name, text in self.rules.items())]
        parts += ["## Where it comes from", "\n".join(f"- {name}: {text}" for name, text in self.provenance.items())]
        return "\n\n".join(parts) + "\n"


def print_report(report: Report, console: Console) -> None:
    """Show all but the details in a terminal."""
    for table in (t for t in report.scores.tables if not t.detail):
        shown = ConsoleTable(title=table.title or report.title)
        for name, *cells in zip(table.header, *table.rows, strict=True):
            # Where it is narrow, columns with spaces to break at give way, and single words stay whole.
            shown.add_column(name, no_wrap=not any(" " in text for text in (name, *cells)))
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


def csv_text(rows: Sequence[Record]) -> str:
    """Rows as CSV with a line of names; a value that is not defined, or that a row does not have, is left empty.

    Example:
        >>> csv_text([{"case": "a", "dice": 0.5}, {"case": "b", "dice": None}]).splitlines()
        ['case,dice', 'a,0.5', 'b,']
    """
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def rounded(value: float | None, digits: int = 3) -> str:
    """A score as text; a dash where it is not defined.

    Example:
        >>> rounded(0.12345), rounded(-0.04, 1), rounded(None)
        ('0.123', '0.0', '-')
    """
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # adding 0 takes the sign off -0


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
