"""The sections of a report, each made of what the runs hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cggm_med.comparison.finished_runs import flat
from cggm_med.report import tsne
from cggm_med.report.assets import Assets
from cggm_med.report.figures import (
    PANELS,
    curve_figures,
    curve_rows,
    curve_words,
    gradient_figure,
    gradient_rows,
    has,
)
from cggm_med.report.markup import Content, Markup, code, details, element, note, paragraph, section
from cggm_med.report.runs import Excluded, ReportedRun
from cggm_med.report.tables import DASH, Cell, table
from cggm_med.results.results import Report, Table

MOST_DRAWN = 6  # runs whose curves and gradients are drawn
MOST_IDS = 200  # of a split that are listed
MOST_EVALUATIONS = 12  # of a kind
MOST_TABLE_ROWS = 60  # of an evaluation's table

Runs = Sequence[ReportedRun]


@dataclass(frozen=True)
class Evaluation:
    """A kind of evaluation that runs may hold.

    Attributes:
        kind: folder inside a run, with a folder for each evaluation.
        title: of its section.
        words: what it shows.
        command: makes one.
        of: what must have been scored for it to apply, see ``ReportedRun.scored``.
    """

    kind: str
    title: str
    words: str
    command: str
    of: tuple[str, ...] = ("regions", "classes", "values")


def summary_section(runs: Runs, excluded: Sequence[Excluded], assets: Assets) -> Markup:
    """What was scored and how well, with the definitions."""
    content: list[Content] = [_excluded(excluded)] if excluded else []
    first = runs[0]
    cases = len({row["case"] for row in first.report.scores.cases})
    held = ", ".join(f"{len(ids)} {name}" for name, ids in first.splits.items())
    content.append(
        paragraph(
            f"Task {first.task}, {_count(runs)}, scored on the {cases} cases of split {first.report.split} "
            f"({held} cases). Data: {first.report.provenance.get('data', DASH)}."
        )
    )
    names = list(dict.fromkeys(name for run in runs for name in run.report.scores.headline))
    header = ["run", "strategy", "seed", "steps", *names]
    rows = [
        [
            run.name,
            run.strategy,
            run.settings["train"].get("seed"),
            run.settings["train"]["epochs"] * run.settings["train"]["steps_per_epoch"],
            *(run.report.scores.headline.get(name) for name in names),
        ]
        for run in runs
    ]
    content.append(table("Scores of the fused prediction", header, rows, sortable=len(runs) > 1))
    if len(runs) > 1:
        content.append(
            note("Differences between single runs prove little: ", code("cggm-med compare"), " repeats and tests them.")
        )
    content.append(_merged([(run.name, run.report) for run in runs], "By region or predictor"))
    records = [{"run": run.name, "strategy": run.strategy, **row} for run in runs for row in run.report.scores.summary]
    heads = [{"run": run.name, **row} for run in runs for row in run.report.scores.heads]
    links: list[Content] = [assets.csv("scores", records, "CSV of these scores")]
    if heads:
        links += [" ", assets.csv("heads", heads, "CSV of each modality's own head")]
    content.append(element("p", links, class_="links"))
    content += [element("h3", "Definitions"), _rules([(run.name, run.report) for run in runs])]
    return section("Summary", content)


def configuration_section(runs: Runs, assets: Assets) -> Markup:
    """All settings; of several runs first those in which they differ."""
    settings = [flat(run.settings) for run in runs]
    keys = list(dict.fromkeys(key for found in settings for key in found))
    differing = [key for key in keys if len({_setting(found, key) for found in settings}) > 1]
    header = ["setting", *(run.name for run in runs)]

    def rows(wanted: Sequence[str], marked: bool) -> list[list[Any]]:
        return [[key, *(Cell(_setting(found, key), marked=marked) for found in settings)] for key in wanted]

    csv = assets.csv("settings", [{"run": r.name, **found} for r, found in zip(runs, settings, strict=True)])
    content: list[Content] = []
    if differing:
        content.append(table("Settings in which the runs differ", header, rows(differing, True)))
    elif len(runs) > 1:
        content.append(paragraph("The runs have the same settings."))
    marks = [keys.index(key) for key in differing]
    whole = table("", header, rows(keys, False), label="all settings", marked_rows=marks)
    content += [details("All settings", whole), element("p", csv, class_="links")]
    return section("Configuration", content)


def curves_section(runs: Runs, assets: Assets) -> Markup:
    """What was logged over training: a row for each quantity, a panel for each run, axes shared within a row."""
    content: list[Content] = []
    drawn = runs[:MOST_DRAWN]
    if len(runs) > len(drawn):
        content.append(note(f"The first {len(drawn)} of {len(runs)} runs are drawn; the CSV files have all of them."))
    content.append(
        paragraph(
            "Pale lines are single steps; full ones a Gaussian mean over neighbours on both sides. "
            + ("Panels of one quantity share their axes." if len(runs) > 1 else "")
        )
    )
    quantities: list[Markup] = []
    for key, (name, words) in PANELS.items():
        if any(has(run, key) for run in runs):
            panels = _panels(runs, drawn, key, assets)
            quantities.append(element("div", element("h3", name), paragraph(words), _grid(panels)))
    if not quantities:
        content = [note("Nothing was logged: train.log_every is longer than the training.")]
    # The quantities of one run stand side by side; of several runs the panels of one quantity do.
    content.append(_grid(quantities) if len(runs) == 1 else quantities)
    return section("Over training", content)


def _panels(runs: Runs, drawn: Runs, key: str, assets: Assets) -> list[Markup]:
    csv = assets.csv(f"curves-{key}", [row for run in runs for row in curve_rows(run, key)])
    mine = [run for run in drawn if has(run, key)]
    figures = {run.name: figure for run, figure in zip(mine, curve_figures(mine, key), strict=True)}
    return [
        assets.chart(f"curves-{key}-{run.name}", figures[run.name], curve_words(run, key), run.name, csv)
        if run.name in figures
        else note(f"{run.name}: nothing logged, strategy {run.strategy} has no such quantity.")
        for run in drawn
    ]


def _grid(parts: Sequence[Content]) -> Markup:
    return element("div", parts, class_="grid")


def gradients_section(runs: Runs, assets: Assets) -> Markup:
    """t-SNE of the last layers' gradients, run by run."""
    content: list[Content] = [
        paragraph(
            "Gradient of each modality's own loss at its classifier head, and of the fused loss at the fused head "
            "(where the fused head is linear in the modalities, its part for each), every point one logged step. "
            "Only directions count: each gradient has length 1. Pale points are early steps, full ones late. "
            "Nearby points have similar directions; distances between groups, and between runs, mean little."
        )
    ]
    drawn = runs[:MOST_DRAWN]
    if len(runs) > len(drawn):
        content.append(note(f"The first {len(drawn)} of {len(runs)} runs are drawn."))
    panels: list[Content] = []
    for run in drawn:
        if not run.gradients:
            panels.append(
                note(f"{run.name} has no gradients.jsonl: it was trained by an earlier version, or without heads.")
            )
            continue
        found = tsne.points(run.gradients)
        plane = tsne.embed(found.direction)
        if plane is None:
            panels.append(note(f"{run.name} has too few different gradients ({len(found.of)}) to show."))
            continue
        csv = assets.csv(f"gradients-{run.name}", gradient_rows(run.name, found, plane))
        steps = len(set(found.step.tolist()))
        alt = f"t-SNE of {len(found.of)} gradients of {run.name} at {steps} steps, by modality and of the fusion"
        figure = gradient_figure(run.name, found, plane, run.modalities)
        panels.append(assets.chart(f"gradients-{run.name}", figure, alt, run.name, csv))
    content += [
        _grid(panels),
        note(
            f"t-SNE by scikit-learn: PCA start, seed {tsne.SEED}, perplexity {tsne.PERPLEXITY:g} or a third of the "
            "points if that is less. Gradients of more than 256 values were kept as count sketches of 256."
        ),
    ]
    return section("Gradients in the plane", content)


def evaluation_section(runs: Runs, assets: Assets, what: Evaluation) -> Markup:
    """The evaluations of one kind that the runs hold, or the command that makes them."""
    found = [
        (run, path.parent) for run in runs for path in sorted((run.folder.path / what.kind).glob("*/results.json"))
    ]
    content: list[Content] = [paragraph(what.words)]
    reports: list[tuple[str, Report]] = []
    figures: list[Markup] = []
    for run, folder in found[:MOST_EVALUATIONS]:
        name = f"{run.name}, {folder.name}"
        try:
            report = Report.from_json(json.loads((folder / "results.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            content.append(note(f"{name}: results.json is damaged; make it anew."))
            continue
        reports.append((name, report))
        csv = assets.csv(f"{what.kind}-{name}", report.scores.cases)
        summary = assets.csv(f"{what.kind}-{name}-summary", report.scores.summary, "CSV of the summary")
        figures += [
            assets.picture(f"{what.kind}-{name}-{png.stem}", png, f"{what.title} of {name}", name, [csv, " ", summary])
            for png in sorted(folder.glob("*.png"))
        ]
    if len(found) > MOST_EVALUATIONS:
        content.append(note(f"The first {MOST_EVALUATIONS} of {len(found)} evaluations."))
    if figures:
        content.append(element("div", figures, class_="grid wide-figures"))
    content.append(_merged(reports, what.title))
    if reports:
        content.append(details("Definitions", _rules(reports)))
    missing = [run.name for run in runs if run not in [r for r, _ in found]]
    if missing:
        whose = "" if len(missing) == len(runs) else f" of {', '.join(missing)}"
        content.append(note(f"None{whose} yet: ", code(what.command), " makes it."))
    return section(what.title, content)


def cost_section(runs: Runs, assets: Assets) -> Markup:
    """Time and memory of each training."""
    rows = [
        [
            run.name,
            run.strategy,
            Cell(_duration(c.get("seconds")), c.get("seconds")),
            Cell(_duration(c.get("cpu_seconds")), c.get("cpu_seconds")),
            Cell(_per_step(c), c["seconds"] / c["steps"] if _per_step(c) != DASH else None),
            Cell(_memory(c.get("peak_memory_bytes")), c.get("peak_memory_bytes")),
            c.get("device"),
            c.get("threads"),
        ]
        for run in runs
        for c in (run.cost,)
    ]
    header = ["run", "strategy", "time", "processor time", "ms per step", "peak memory", "device", "threads"]
    csv = assets.csv("cost", [{"run": run.name, "strategy": run.strategy, **run.cost} for run in runs])
    return section(
        "Cost",
        paragraph(
            "Of training with its validations. Memory: on a GPU what torch allocated at most, otherwise the most that "
            "the process held, libraries included. A dash: not measured, since the run was stopped in between or made "
            "by an earlier version."
        ),
        table("Time and memory", header, rows, sortable=len(runs) > 1),
        element("p", csv, class_="links"),
    )


def provenance_section(runs: Runs) -> Markup:
    """Commands, versions, seeds and splits."""
    keys = list(dict.fromkeys(key for run in runs for key in run.report.provenance))
    rows = [[key, *(Cell(run.report.provenance.get(key, DASH)) for run in runs)] for key in keys]
    lists: list[Content] = []
    for name, ids in runs[0].splits.items():
        more = f", and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
        lists.append(element("dt", f"{name}: {len(ids)} cases"))
        lists.append(element("dd", (", ".join(ids[:MOST_IDS]) or "none") + more))
    return section(
        "Provenance",
        table("Where the numbers come from", ["", *(run.name for run in runs)], rows),
        details("Cases of each split" + (", the same in all runs" if len(runs) > 1 else ""), element("dl", lists)),
    )


def _excluded(excluded: Sequence[Excluded]) -> Markup:
    rows = [[str(x.folder), x.reason] for x in excluded]
    return element("div", table("Not in this report", ["folder", "reason"], rows), class_="warning")


def _count(runs: Runs) -> str:
    return "one run" if len(runs) == 1 else f"{len(runs)} runs"


def _merged(reports: Sequence[tuple[str, Report]], fallback: str) -> Markup:
    """The short tables of several reports; those with the same title and columns as one, with a column for the run."""
    tables: dict[tuple[str, tuple[str, ...]], list[tuple[str, Table]]] = {}
    for name, report in reports:
        for t in report.scores.tables:
            if not t.detail:
                tables.setdefault((t.title, t.header), []).append((name, t))
    found = []
    for (title, header), parts in tables.items():
        rows = [(*row[:1], name, *row[1:]) for name, t in parts for row in t.rows]
        several = len(reports) > 1
        if several:  # what is compared stands together
            order = list(dict.fromkeys(row[0] for row in rows))
            rows.sort(key=lambda row: order.index(row[0]))
        cells = [_numbers(row if several else (row[0], *row[2:])) for row in rows[:MOST_TABLE_ROWS]]
        names = (header[0], "run", *header[1:]) if several else header
        caption = (title[:1].upper() + title[1:]) or fallback
        found.append(table(caption, names, cells, sortable=len(cells) > 2))
        if len(rows) > MOST_TABLE_ROWS:
            found.append(note(f"The first {MOST_TABLE_ROWS} of {len(rows)} rows; the CSV has them all."))
    return element("div", found, class_="tables")


def _numbers(row: Sequence[str]) -> list[Any]:
    """Cells that are sorted by the number that their text begins with."""
    cells: list[Any] = []
    for words in row:
        try:
            cells.append(Cell(words, float(words.split()[0])))
        except (ValueError, IndexError):
            cells.append(DASH if words == "-" else words)
    return cells


def _rules(reports: Sequence[tuple[str, Report]]) -> Markup:
    """Definitions, each once; those that differ between reports with the run that they belong to."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, report in reports:
        for rule, words in report.rules.items():
            found.setdefault((rule, words), []).append(name)
    lines: list[Content] = []
    for (rule, words), names in found.items():
        whose = "" if len(names) == len(reports) else f" ({', '.join(names)})"
        lines += [element("dt", rule + whose), element("dd", words)]
    return element("dl", lines)


def _or_dash(show: Callable[[float], str], value: Any) -> str:
    return show(value) if isinstance(value, (int, float)) else DASH


def _setting(settings: Mapping[str, Any], key: str) -> str:
    """A setting in full; a dash where a run has none of that name.

    Example:
        >>> [_setting({"a": 0.00125, "b": None, "c": "t1", "d": [1, 2]}, key) for key in "abcde"]
        ['0.00125', 'null', 't1', '[1, 2]', '–']
    """
    if key not in settings:
        return DASH
    return settings[key] if isinstance(settings[key], str) else json.dumps(settings[key])


def _duration(seconds: Any) -> str:
    """Such as ``1 h 02 min``.

    Example:
        >>> [_duration(x) for x in (8.97, 128, 3725, None)]
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


def _memory(size: Any) -> str:
    return _or_dash(lambda value: f"{value / 1e9:.2f} GB", size)
