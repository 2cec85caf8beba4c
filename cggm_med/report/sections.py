"""The sections of a report: the content of each, from the runs; the text is in its template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cggm_med.config import flat
from cggm_med.pages.page import Section
from cggm_med.pages.pictures import Picture
from cggm_med.pages.tables import DASH, Cell, HtmlTable, html_table, number_cells
from cggm_med.report import tsne
from cggm_med.report.assets import Assets
from cggm_med.report.figures import (
    MAX_DRAWN,
    PANELS,
    curve_figures,
    curve_rows,
    curve_words,
    gradient_figure,
    gradient_rows,
    has_curve,
)
from cggm_med.report.render import render
from cggm_med.results.results import Report
from cggm_med.results.tables import Table
from cggm_med.runs.finished_run import Excluded, FinishedRun
from cggm_med.trees import parse_json

MAX_IDS = 200  # of a split that are listed
MAX_EVALUATIONS = 12  # of each kind
OF_SCANS = {"left_out"}  # figures of evaluations that show scans
MAX_TABLE_ROWS = 60  # of an evaluation's table

Runs = Sequence[FinishedRun]


@dataclass(frozen=True)
class EvaluationKind:
    """A kind of evaluation that a run's folder may hold.

    Attributes:
        folder: inside a run, with a folder for each evaluation.
        title: of its section.
        words: what it shows.
        command: makes one.
        of: what must have been scored for it to apply, see ``FinishedRun.scored``.
    """

    folder: str
    title: str
    words: str
    command: str
    of: tuple[str, ...] = ("regions", "classes", "values")


EVALUATIONS = (
    EvaluationKind(
        "subsets",
        "Modality subsets",
        "What is left when modalities are missing: the score of every subset of them.",
        "cggm-med evaluate RUN --subsets all",
    ),
    EvaluationKind(
        "calibration",
        "Calibration",
        "Whether predictions are right as often as their probabilities say.",
        "cggm-med evaluate RUN --calibration",
        ("regions", "classes"),
    ),
    EvaluationKind(
        "probe",
        "Linear probes",
        "How well each encoder was trained: the score of a linear read-out of its frozen features.",
        "cggm-med probe RUN",
    ),
    EvaluationKind(
        "external",
        "External validation",
        "How the run does on patients of others, by site and size, and how far volumes agree.",
        "cggm-med evaluate RUN --data OTHER --external",
        ("regions",),
    ),
    EvaluationKind(
        "robustness",
        "Robustness",
        "What artefacts of MRI in one modality, or in all, cost.",
        "cggm-med evaluate RUN --corrupt motion,bias,noise",
        ("regions",),
    ),
)


def summary_section(runs: Runs, excluded: Sequence[Excluded], assets: Assets) -> Section:
    """The task, the cases and the metrics of every run, with their definitions."""
    first = runs[0]
    names = list(dict.fromkeys(name for run in runs for name in run.report.scores.headline))
    header = ["run", "strategy", "seed", "steps", *names]
    rows = [
        [
            run.name,
            run.strategy,
            run.settings["train"].get("seed"),
            run.steps,
            *(run.report.scores.headline.get(name) for name in names),
        ]
        for run in runs
    ]
    reports = [(run.name, run.report) for run in runs]
    records = [{"run": run.name, "strategy": run.strategy, **row} for run in runs for row in run.report.scores.summary]
    heads = [{"run": run.name, **row} for run in runs for row in run.report.scores.heads]
    links = [assets.csv("scores", records, "CSV of these scores")]
    if heads:
        links.append(assets.csv("heads", heads, "CSV of each modality's own head"))
    body = render(
        "summary.html",
        excluded=excluded
        and html_table("Not in this report", ["folder", "reason"], [[run.run, run.reason] for run in excluded]),
        task=first.task,
        count=len(runs),
        cases=len({row["case"] for row in first.report.scores.cases}),
        split=first.report.split,
        splits=", ".join(f"{len(ids)} {name}" for name, ids in first.splits.items()),
        data=first.report.provenance.get("data", DASH),
        headline=html_table("Scores of the fused prediction", header, rows, sortable=len(runs) > 1),
        tables=_merged(reports, "By region or predictor"),
        links=links,
        rules=_rules(reports),
    )
    return Section("Summary", body)


def configuration_section(runs: Runs, assets: Assets) -> Section:
    """All settings, after those in which the runs differ."""
    settings = [flat(run.settings) for run in runs]
    keys = list(dict.fromkeys(key for own in settings for key in own))
    differing = [key for key in keys if len({_setting(own, key) for own in settings}) > 1]
    header = ["setting", *(run.name for run in runs)]

    def rows(chosen: Sequence[str], marked: bool) -> list[list[Any]]:
        return [[key, *(Cell(_setting(own, key), marked=marked) for own in settings)] for key in chosen]

    body = render(
        "configuration.html",
        count=len(runs),
        differing=differing and html_table("Settings in which the runs differ", header, rows(differing, True)),
        whole=html_table(
            "", header, rows(keys, False), label="all settings", marked_rows=[keys.index(k) for k in differing]
        ),
        csv=assets.csv("settings", [{"run": r.name, **own} for r, own in zip(runs, settings, strict=True)]),
    )
    return Section("Configuration", body)


def curves_section(runs: Runs, assets: Assets) -> Section:
    """Curves over training: one row per quantity, one panel per run, axes shared within a row."""
    drawn = runs[:MAX_DRAWN]
    quantities = [
        (name, words, _panels(runs, drawn, key, assets))
        for key, (name, words) in PANELS.items()
        if any(has_curve(run, key) for run in runs)
    ]
    body = render("curves.html", count=len(runs), drawn=len(drawn), quantities=quantities)
    return Section("Over training", body)


def _panels(runs: Runs, drawn: Runs, key: str, assets: Assets) -> list[Picture | str]:
    csv = assets.csv(f"curves-{key}", [row for run in runs for row in curve_rows(run, key)])
    logged = [run for run in drawn if has_curve(run, key)]
    figures = {run.name: figure for run, figure in zip(logged, curve_figures(logged, key), strict=True)}
    return [
        assets.chart(f"curves-{key}-{run.name}", figures[run.name], curve_words(run, key), run.name, csv)
        if run.name in figures
        else f"{run.name}: nothing logged, strategy {run.strategy} has no such quantity."
        for run in drawn
    ]


def gradients_section(runs: Runs, assets: Assets) -> Section:
    """t-SNE of the gradients at the last layers, one panel per run."""
    drawn = runs[:MAX_DRAWN]
    body = render(
        "gradients.html",
        count=len(runs),
        drawn=len(drawn),
        panels=[_gradients(run, assets) for run in drawn],
        seed=tsne.SEED,
        perplexity=f"{tsne.PERPLEXITY:g}",
    )
    return Section("Gradients in the plane", body)


def _gradients(run: FinishedRun, assets: Assets) -> Picture | str:
    if not run.gradients:
        return f"{run.name} has no gradients.jsonl: it was trained by an earlier version, or without heads."
    gradients = tsne.gradient_points(run.gradients)
    plane = tsne.embed(gradients.direction)
    if plane is None:
        return f"{run.name} has too few different gradients ({len(gradients.of)}) to show."
    csv = assets.csv(f"gradients-{run.name}", gradient_rows(run.name, gradients, plane))
    steps = len(set(gradients.step.tolist()))
    alt = f"t-SNE of {len(gradients.of)} gradients of {run.name} at {steps} steps, by modality and of the fusion"
    figure = gradient_figure(run.name, gradients, plane, run.modalities)
    return assets.chart(f"gradients-{run.name}", figure, alt, run.name, csv)


def evaluation_section(runs: Runs, assets: Assets, kind: EvaluationKind) -> Section:
    """The evaluations of one kind in the runs' folders, or the command that makes them."""
    found = [
        (run.name, path.parent)
        for run in runs
        for path in sorted((run.folder.path / kind.folder).glob("*/results.json"))
    ]
    reports: list[tuple[str, Report]] = []
    figures: list[Picture | str] = []
    damaged: list[str] = []
    for run_name, folder in found[:MAX_EVALUATIONS]:
        name = f"{run_name}, {folder.name}"
        try:
            report = Report.from_json(parse_json((folder / "results.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            damaged.append(name)
            continue
        reports.append((name, report))
        csv = assets.csv(f"{kind.folder}-{name}", report.scores.cases)
        summary = assets.csv(f"{kind.folder}-{name}-summary", report.scores.summary, "CSV of the summary")
        figures += [
            assets.picture(
                f"{kind.folder}-{name}-{png.stem}",
                png,
                f"{kind.title} of {name}",
                name,
                csv,
                summary,
                photo=png.stem in OF_SCANS,
            )
            for png in sorted(folder.glob("*.png"))
        ]
    holders = {name for name, _ in found}
    body = render(
        "evaluation.html",
        kind=kind,
        runs=len(runs),
        count=len(found),
        read=min(len(found), MAX_EVALUATIONS),
        damaged=damaged,
        figures=figures,
        tables=_merged(reports, kind.title),
        rules=_rules(reports),
        missing=[run.name for run in runs if run.name not in holders],
    )
    return Section(kind.title, body)


def cost_section(runs: Runs, assets: Assets) -> Section:
    """Time and memory of each training."""
    rows = [
        [
            run.name,
            run.strategy,
            Cell(_duration(c.get("seconds")), c.get("seconds")),
            Cell(_duration(c.get("cpu_seconds")), c.get("cpu_seconds")),
            Cell(_per_step(c), c["seconds"] / c["steps"] if _per_step(c) != DASH else None),
            Cell(_memory(c.get("peak_memory_bytes")), c.get("peak_memory_bytes")),
            Cell(_megabytes(c.get("step_memory_bytes")), c.get("step_memory_bytes")),
            c.get("device"),
            c.get("threads"),
        ]
        for run in runs
        for c in (run.cost,)
    ]
    header = ["run", "strategy", "time", "processor time", "ms per step", "peak memory", "a step", "device", "threads"]
    body = render(
        "cost.html",
        cost=html_table("Time and memory", header, rows, sortable=len(runs) > 1),
        csv=assets.csv("cost", [{"run": run.name, "strategy": run.strategy, **run.cost} for run in runs]),
    )
    return Section("Cost", body)


def provenance_section(runs: Runs) -> Section:
    """Commands, versions, seeds and splits."""
    keys = list(dict.fromkeys(key for run in runs for key in run.report.provenance))
    rows = [[key, *(Cell(run.report.provenance.get(key, DASH)) for run in runs)] for key in keys]
    splits = []
    for name, ids in runs[0].splits.items():
        more = f", and {len(ids) - MAX_IDS} more" if len(ids) > MAX_IDS else ""
        splits.append((f"{name}: {len(ids)} cases", (", ".join(ids[:MAX_IDS]) or "none") + more))
    body = render(
        "provenance.html",
        count=len(runs),
        provenance=html_table("Where the numbers come from", ["", *(run.name for run in runs)], rows),
        splits=splits,
    )
    return Section("Provenance", body)


def _merged(reports: Sequence[tuple[str, Report]], fallback: str) -> list[HtmlTable | str]:
    """The short tables of several reports; those with the same title and columns as one, with a column for the run.

    A table that is cut is followed by a note.
    """
    tables: dict[tuple[str, tuple[str, ...]], list[tuple[str, Table]]] = {}
    for name, report in reports:
        for t in report.scores.tables:
            if not t.detail:
                tables.setdefault((t.title, t.header), []).append((name, t))
    merged: list[HtmlTable | str] = []
    for (title, header), parts in tables.items():
        rows = [(*row[:1], name, *row[1:]) for name, t in parts for row in t.rows]
        several = len(reports) > 1
        if several:  # rows to be compared follow one another
            order = list(dict.fromkeys(row[0] for row in rows))
            rows.sort(key=lambda row: order.index(row[0]))
        cells = [number_cells(row if several else (row[0], *row[2:])) for row in rows[:MAX_TABLE_ROWS]]
        names = (header[0], "run", *header[1:]) if several else header
        caption = (title[:1].upper() + title[1:]) or fallback
        merged.append(html_table(caption, names, cells, sortable=len(cells) > 2))
        if len(rows) > MAX_TABLE_ROWS:
            merged.append(f"The first {MAX_TABLE_ROWS} of {len(rows)} rows; the CSV has them all.")
    return merged


def _rules(reports: Sequence[tuple[str, Report]]) -> list[tuple[str, str]]:
    """Definitions, each once; those that differ between reports name their runs."""
    names_by_rule: dict[tuple[str, str], list[str]] = {}
    for name, report in reports:
        for rule in report.rules.items():
            names_by_rule.setdefault(rule, []).append(name)
    return [
        (term if len(names) == len(reports) else f"{term} ({', '.join(names)})", words)
        for (term, words), names in names_by_rule.items()
    ]


def _or_dash(show: Callable[[float], str], value: Any) -> str:
    return show(value) if isinstance(value, (int, float)) else DASH


def _setting(settings: Mapping[str, Any], key: str) -> str:
    """A setting as text; a dash where a run has none of that name.

    Example:
        >>> [_setting({"a": 0.00125, "b": None, "c": "t1", "d": [1, 2]}, key) for key in "abcde"]
        ['0.00125', 'null', 't1', '[1, 2]', '–']
    """
    if key not in settings:
        return DASH
    return settings[key] if isinstance(settings[key], str) else json.dumps(settings[key])


def _duration(seconds: Any) -> str:
    """A duration as text.

    Example:
        >>> [_duration(seconds) for seconds in (8.97, 128, 3725, None)]
        ['9.0 s', '2 min 08 s', '1 h 02 min', '–']
    """

    def show(value: float) -> str:
        whole = round(value)
        if value < 60:
            return f"{value:.1f} s"
        if whole < 3600:
            return f"{whole // 60} min {whole % 60:02d} s"
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

    return _or_dash(show, seconds)


def _per_step(cost: Any) -> str:
    seconds, steps = cost.get("seconds"), cost.get("steps")
    return _or_dash(lambda value: f"{1000 * value / steps:.1f}", seconds) if steps else DASH


def _megabytes(size: Any) -> str:
    return _or_dash(lambda value: f"{value / 1e6:.1f} MB", size)


def _memory(size: Any) -> str:
    return _or_dash(lambda value: f"{value / 1e9:.2f} GB", size)
