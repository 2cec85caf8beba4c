"""Writing a comparison to its folder: a page, Markdown, LaTeX, CSV, JSON and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cggm_med.comparison.compare import Comparison
from cggm_med.comparison.cost_figure import cost_figure, priced
from cggm_med.comparison.costs import COSTS
from cggm_med.comparison.curves import curves, curves_figure
from cggm_med.comparison.figure import comparison_figure
from cggm_med.comparison.metric_rows import ComparisonRow
from cggm_med.comparison.notes import notes
from cggm_med.comparison.page import comparison_page
from cggm_med.comparison.subset_figure import subset_figure
from cggm_med.comparison.tables import RULES, comparison_tables
from cggm_med.files import write_json, write_text
from cggm_med.results.aggregate import mean_of
from cggm_med.results.tables import Table, csv_text, latex_table, markdown_table

# What is written to a comparison's folder, see ``files.require_own``.
FILES = (
    *("comparison.json", "comparison.md", "comparison.csv", "comparison.tex", "comparison.html", "runs.csv"),
    *("comparison.png", "curves.png", "subsets.png", "cost.png"),
)


def write_comparison(folder: Path, comparison: Comparison, provenance: Mapping[str, str]) -> None:
    """Write ``comparison.html``, ``.md``, ``.csv``, ``.json``, ``.tex`` and ``.png``, ``runs.csv``, and figures.

    Args:
        folder: to write to; an older comparison there is replaced.
        comparison: what to write.
        provenance: command, versions and the like.
    """
    content = {
        "task": comparison.task,
        "baseline": comparison.baseline,
        "baselines": dict(comparison.baselines),
        "repeats": list(comparison.repeats),
        "chosen_by": comparison.chosen_by,
        "lower_is_better": comparison.lower_is_better,
        "rows": [asdict(row) for row in comparison.rows],
        "runs": run_rows(comparison),
        "excluded": [asdict(x) for x in comparison.excluded],
        "subsets": [asdict(score) for score in comparison.subset_scores],
        "absent_controls": dict(comparison.absent_controls),
        "design": {key: value for key, value in asdict(comparison.design).items() if key != "groups"},
        "primary": None if comparison.primary is None else asdict(comparison.primary),
        "notes": notes(comparison),
        "rules": RULES,
        "provenance": dict(provenance),
    }
    write_json(folder / FILES[0], content)  # first, since it says whose the others are
    tables = comparison_tables(comparison)
    figures = draw(folder, comparison)
    title, about, rules = _title(comparison), _about(comparison), _scoring(comparison)
    paths = {folder / name: what for name, what in figures.items()}
    page = comparison_page(title, about, comparison, run_rows(comparison), rules, paths, provenance)
    write_text(folder / "comparison.html", page)
    write_text(folder / "comparison.md", _markdown(comparison, tables, figures, provenance))
    write_text(folder / "comparison.tex", _latex(comparison, tables, provenance))
    write_text(folder / "comparison.csv", csv_text([_plain(row) for row in comparison.rows]))
    write_text(folder / "runs.csv", csv_text(run_rows(comparison)))


def draw(folder: Path, comparison: Comparison) -> dict[str, str]:
    """Draw every figure that there is something for; those of an older comparison are removed.

    Returns:
        What each shows, by the name of its file.
    """
    figures = (
        ("comparison.png", f"{comparison.chosen_by} of each strategy", comparison_figure, True),
        ("curves.png", f"{comparison.chosen_by} over the budget", curves_figure, bool(curves(comparison))),
        ("subsets.png", f"{comparison.chosen_by} by subset", subset_figure, bool(comparison.subset_scores)),
        ("cost.png", "cost against gain", cost_figure, bool(priced(comparison))),
    )
    for name, _, figure, wanted in figures:
        if wanted:
            figure(folder / name, comparison)
        else:
            (folder / name).unlink(missing_ok=True)
    return {name: what for name, what, _, wanted in figures if wanted}


def run_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One row per run: seed, number of cases, every metric, cost."""
    rows = []
    for run in comparison.runs:
        means = {metric: mean_of(values) for metric, values in run.values.items()}
        cost = {key: run.cost.get(key) for key in COSTS}
        plain = {"strategy": run.name, "seed": run.seed, "cases": len(run.tested), "first_case": min(run.tested)}
        rows.append({**plain, **run.headline, **means, **cost, "folder": str(run.path)})
    return rows


def _markdown(
    comparison: Comparison, tables: Sequence[Table], figures: Mapping[str, str], provenance: Mapping[str, str]
) -> str:
    parts = [
        f"# {_title(comparison)}",
        _about(comparison),
        *(f"![{what}]({name})" for name, what in figures.items()),
    ]
    for table in tables:
        parts += [f"## {table.title[0].upper()}{table.title[1:]}", markdown_table(table.header, table.rows)]
        if table is tables[0]:
            parts += notes(comparison)
    parts += ["## How it was computed", "\n".join(f"- {name}: {text}" for name, text in RULES.items())]
    rules = _scoring(comparison)
    parts += ["## How it was scored", "\n".join(f"- {name}: {text}" for name, text in rules.items())]
    parts += ["## Where it comes from", "\n".join(f"- {name}: {text}" for name, text in provenance.items())]
    return "\n\n".join(parts) + "\n"


def _title(comparison: Comparison) -> str:
    seeds = sorted({run.seed for run in comparison.runs})
    return f"{comparison.task}: {len(comparison.names)} strategies, seeds {', '.join(map(str, seeds))}"


def _about(comparison: Comparison) -> str:
    return f"Differences, p and cost are against `{comparison.baseline}`{' trained as long' * comparison.by_budget}."


def _scoring(comparison: Comparison) -> dict[str, str]:
    """How the runs were scored, as their results say it."""
    rules = dict(comparison.runs[0].report.rules)
    if len({run.report.rules["checkpoint"] for run in comparison.runs}) > 1:
        rules["checkpoint"] = f"the one with the best validation {comparison.chosen_by}, for each run by itself"
    return rules


def _latex(comparison: Comparison, tables: Sequence[Table], provenance: Mapping[str, str]) -> str:
    """The tables for a paper; what they speak about stands in the caption of the first."""
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in comparison.runs}))
    about = f"{comparison.task}, seeds {seeds}; differences, p and cost are against {comparison.baseline}."
    parts = [f"% {name}: {text}" for name, text in provenance.items()] + [r"% \usepackage{booktabs}"]
    for table in tables:
        title = f"{table.title[0].upper()}{table.title[1:]}"
        said = f" {about} {' '.join(notes(comparison))}" if table is tables[0] else ""
        parts.append("\n" + latex_table(table, f"{title}.{said}"))
    return "\n".join(parts) + "\n"


def _plain(row: ComparisonRow) -> dict[str, Any]:
    """One row with the ends of its intervals side by side."""
    plain = asdict(row)
    for key in ("interval", "difference_interval", "seeds_interval"):
        ends = plain.pop(key) or (None, None)
        plain |= {f"{key}_low": ends[0], f"{key}_high": ends[1]}
    return plain
