"""The results of an evaluation, with their definitions and provenance, as tables, JSON and Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any

from rich.console import Console

from cggm_med.results.tables import MAX_ROWS, Table, markdown_table, print_table
from cggm_med.trees import in_form

Record = Mapping[str, Any]
CaseValues = dict[str, dict[str, tuple[float, float]]]  # by metric and case: a sum, and of how many values


_TABLE = {"title": str, "header": [str], "rows": [[str]], "detail": bool}
_FORM = {
    **dict.fromkeys(("task", "strategy", "split"), str),
    "headline": {str: (float, NoneType)},
    **{"summary": [{}], "cases": [{"case": str}], "heads": [{}], "tables": [_TABLE]},
    **{"rules": {str: str}, "provenance": {str: str}},
}


@dataclass(frozen=True)
class Scores:
    """How well cases were predicted.

    Attributes:
        headline: the few metrics that stand for all, by name; None where not defined; logged at each validation.
        summary: of all cases together, one row per region, or for the fused prediction and each head.
        cases: one row per case, or per case and region.
        heads: the same for each modality's own classifier head; empty without heads.
        tables: the same for people.
    """

    headline: Mapping[str, float | None]
    summary: tuple[Record, ...]
    cases: tuple[Record, ...]
    heads: tuple[Record, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Report:
    """The results of one evaluation, and where they come from.

    Attributes:
        task, strategy: registered names.
        split: which cases were scored.
        scores: how well they were predicted.
        rules: definitions of the metrics.
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
        return {**plain, **{name: list(v) if isinstance(v, tuple) else v for name, v in scores.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Report:
        """The report that ``to_json`` wrote.

        Raises:
            ValueError: if it has another form.
        """
        in_form(content, _FORM)
        tables = tuple(
            Table(t["title"], tuple(t["header"]), tuple(map(tuple, t["rows"])), t["detail"]) for t in content["tables"]
        )
        rows = {name: tuple(content[name]) for name in ("summary", "cases", "heads")}
        about = {name: content[name] for name in ("task", "strategy", "split", "rules", "provenance")}
        return cls(scores=Scores(content["headline"], tables=tables, **rows), **about)

    def to_markdown(self) -> str:
        """Tables and lists for people."""
        parts = [f"# {self.title}"]
        for table in self.scores.tables:
            if table.title:
                parts.append(f"## {table.title[0].upper()}{table.title[1:]}")
            parts.append(markdown_table(table.header, table.rows[:MAX_ROWS]))
            if len(table.rows) > MAX_ROWS:
                parts.append(f"The first {MAX_ROWS} of {len(table.rows)} rows; `results.json` has them all.")
        parts += ["## How it was scored", "\n".join(f"- {name}: {text}" for name, text in self.rules.items())]
        parts += ["## Where it comes from", "\n".join(f"- {name}: {text}" for name, text in self.provenance.items())]
        return "\n\n".join(parts) + "\n"


def print_results(report: Report, console: Console) -> None:
    """Print all tables but the detailed ones in a terminal."""
    for table in (t for t in report.scores.tables if not t.detail):
        print_table(table, console, title=report.title)
