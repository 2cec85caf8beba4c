"""A benchmark as Markdown, CSV and JSON: the table of all subsets, with published figures and conventions beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cggm_med.files import write_json, write_text
from cggm_med.reproduction.benchmark.case_lists import source
from cggm_med.reproduction.benchmark.catalogue import CONVENTIONS, DIFFERS, MODALITIES, REGIONS, SUBSETS, Benchmark
from cggm_med.reproduction.benchmark.scores import (
    ALL_SUBSETS,
    DICE,
    HD95,
    RULES,
    Figure,
    figures,
    of_convention,
)
from cggm_med.reproduction.outcome import MARK, whose_data
from cggm_med.results.aggregate import MEAN
from cggm_med.results.results import Record
from cggm_med.results.tables import Table, csv_text, markdown_table, rounded
from cggm_med.runs.finished_run import Excluded

HERE = "here"
COLUMNS = (*REGIONS, MEAN)
GIVEN = "x"


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        benchmark: that was scored.
        cases: see ``scores.scored_cases``.
        trained: how each strategy was trained, a line each.
        notes: what has to be said of them.
        phantom: whether the data were generated, so that no figure is a result.
        excluded: runs that failed or could not be compared.
        rules: definitions of the metrics.
        provenance: command, versions and date.
        empty_mm: HD95 of these runs where only one mask has a voxel.
    """

    benchmark: Benchmark
    cases: tuple[Record, ...]
    trained: tuple[str, ...]
    notes: tuple[str, ...]
    phantom: bool
    excluded: tuple[Excluded, ...]
    rules: Mapping[str, str]
    provenance: Mapping[str, str]
    empty_mm: float

    @property
    def strategies(self) -> list[str]:
        """Names of what was trained."""
        return list(dict.fromkeys(row["strategy"] for row in self.cases))

    @property
    def title(self) -> str:
        """What the tables are of."""
        return self.benchmark.name + (f" ({MARK})" if self.phantom else "")


def tables(outcome: Outcome) -> list[Table]:
    """Dice and HD95 of each subset, the published figures, and HD95 by convention."""
    dice = figures(outcome.cases, lambda row: 100 * row[DICE])
    mm = figures(outcome.cases, lambda row: row[HD95])
    found = []
    for name in outcome.strategies:
        found.append(_of_subsets(f"{outcome.title}, {name}: Dice in percent", name, dice, 2))
        found.append(replace(_of_subsets(f"{outcome.title}, {name}: HD95 in mm", name, mm, 1), detail=True))
    return [*found, _published(outcome, dice), _conventions(outcome, mm)]


FILES = ("benchmark.json", "benchmark.md", "benchmark.csv", "cases.csv")


def write(folder: Path, outcome: Outcome) -> None:
    """Write ``benchmark.md``, ``.csv`` and ``.json``, and ``cases.csv``; older ones there are replaced."""
    benchmark = outcome.benchmark
    dice, mm = (figures(outcome.cases, of) for of in (lambda row: row[DICE], lambda row: row[HD95]))
    data = whose_data(outcome.phantom)
    rows = [
        {
            "strategy": name,
            "subset": subset,
            "region": region,
            "dice": figure.mean,
            "dice_sd": figure.sd,
            "hd95_mm": mm[name, subset, region].mean,
            "hd95_mm_sd": mm[name, subset, region].sd,
            "data": data,
        }
        for (name, subset, region), figure in dice.items()
    ]
    content = {
        "what": MARK if outcome.phantom else "trained on the cases of the list",
        "benchmark": benchmark.name,
        "shows": benchmark.shows,
        "cases_from": source(benchmark),
        "trained": list(outcome.trained),
        "rows": rows,
        "published_percent": [asdict(of) for of in benchmark.published],
        "notes": list(outcome.notes),
        "differs": list(DIFFERS),
        "excluded": [asdict(run) for run in outcome.excluded],
        "rules": {**RULES, **outcome.rules},
        "provenance": dict(outcome.provenance),
    }
    write_json(folder / FILES[0], content)  # first, since it says whose the others are
    write_text(folder / "cases.csv", csv_text([{**row, "data": data} for row in outcome.cases]))
    write_text(folder / "benchmark.csv", csv_text(rows))
    write_text(folder / "benchmark.md", markdown(outcome))


def markdown(outcome: Outcome) -> str:
    """The whole page."""
    parts = [
        f"# {outcome.benchmark.name}: {outcome.benchmark.shows}",
        f"**{MARK.capitalize()}: this page shows that everything runs, and nothing about any method.**"
        if outcome.phantom
        else "",
        source(outcome.benchmark) + (" Here only the first of them." if outcome.phantom else ""),
        "\n".join(f"- {line}" for line in outcome.trained),
    ]
    for table in tables(outcome):
        parts += [f"## {table.title}", markdown_table(table.header, table.rows)]
    parts += [
        _section("What to know of these runs", [*outcome.notes, *(f"{r.run}: {r.reason}" for r in outcome.excluded)]),
        _section("What differs from the literature", DIFFERS),
        _section("Where conventions of HD95 were seen", _seen()),
        _section("How it was computed", [f"{k}: {v}" for k, v in {**RULES, **outcome.rules}.items()]),
        _section("Where it comes from", [f"{k}: {v}" for k, v in outcome.provenance.items()]),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _of_subsets(title: str, name: str, of: Mapping[tuple[str, str, str], Figure], digits: int) -> Table:
    lines = []
    for subset in SUBSETS:
        cells = [of[name, "+".join(subset), region] for region in COLUMNS]
        lines.append((*(GIVEN if m in subset else "" for m in MODALITIES), *(_text(c, digits) for c in cells)))
    closing = [_text(of[name, ALL_SUBSETS, region], digits) for region in COLUMNS]
    lines.append((MEAN, *[""] * (len(MODALITIES) - 1), *closing))
    return Table(title, (*MODALITIES, *COLUMNS), tuple(lines))


def _published(outcome: Outcome, dice: Mapping[tuple[str, str, str], Figure]) -> Table:
    mark = MARK if outcome.phantom else HERE
    lines = [
        (name, *(_text(dice[name, ALL_SUBSETS, region], 2) for region in COLUMNS), mark, "")
        for name in outcome.strategies
    ]
    for of in outcome.benchmark.published:
        regions = [""] * len(REGIONS) if of.regions is None else of.regions
        lines.append((of.method, *regions, of.mean, of.standing or "published", of.note))
    title = f"{outcome.title}: Dice in percent, mean over the {len(SUBSETS)} subsets, beside published figures"
    return Table(title, ("method", *COLUMNS, "standing", "note"), tuple(lines))


def _conventions(outcome: Outcome, ours: Mapping[tuple[str, str, str], Figure]) -> Table:
    by_name = {f"0 or {outcome.empty_mm:g}, as above": ours} | {
        of.name: figures(outcome.cases, of_convention(of)) for of in CONVENTIONS
    }
    lines = [
        (name, convention, *(_text(of[name, ALL_SUBSETS, region], 1) for region in COLUMNS))
        for name in outcome.strategies
        for convention, of in by_name.items()
    ]
    title = f"{outcome.title}: HD95 in mm, mean over the {len(SUBSETS)} subsets, by the convention for empty masks"
    return Table(title, ("method", "empty counts as", *COLUMNS), tuple(lines))


def _seen() -> list[str]:
    return [
        f"{of.name}: {of.seen or 'said to be in the literature; in no code that was read for this page'}"
        for of in CONVENTIONS
    ]


def _section(title: str, lines: Sequence[str]) -> str:
    listed = [f"- {line}" for line in lines]
    return "\n".join([f"## {title}\n", *listed]) if listed else ""


def _text(figure: Figure, digits: int) -> str:
    return rounded(figure.mean, digits) + ("" if figure.sd is None else f" ± {rounded(figure.sd, digits)}")
