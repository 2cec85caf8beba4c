"""The sections of single cases: their metrics, worst cases first, and pictures of the worst."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cggm_med.metrics.regions import EMPTY_KINDS
from cggm_med.pages.page import Section
from cggm_med.pages.pictures import Link, Picture
from cggm_med.pages.tables import Cell, HtmlTable, column_name, html_table
from cggm_med.report.assets import Assets
from cggm_med.report.figures import MAX_DRAWN, distribution_figure
from cggm_med.report.render import render
from cggm_med.results.aggregate import grouped
from cggm_med.results.results import Record
from cggm_med.runs.finished_run import FinishedRun

CASES = "cases"  # name of the CSV
MAX_ROWS = 1500  # of a table on the page; the CSV has them all
MAX_PICTURES = 12
SPREAD = ("dice", "hd95_mm")  # metrics of regions whose spread over the cases is drawn
EMPTY = {"none": "", **EMPTY_KINDS}
ORDER = {
    "regions": "Worst cases first: by the mean Dice over regions and runs.",
    "classes": "Worst cases first: wrong ones by falling, then right ones by rising probability of that class.",
    "values": "Worst cases first: by the absolute error.",
}
# Pictures of all cases together, by file name.
TOGETHER = {
    "confusion": "Confusion matrix of the fused prediction: shares of each true class's samples by predicted class.",
    "predictions": "Predicted against true values, with the line of perfect prediction.",
}


def goodness(row: Record) -> float:
    """How good a row's prediction is, higher is better; compared within one task only.

    Of a region its Dice; of a class its probability, negative where it is wrong; of a value minus its absolute error.
    """
    if "dice" in row:
        return float(row["dice"])
    if "probability" in row:
        return float(row["probability"]) * (1 if row["true"] == row["predicted"] else -1)
    return -abs(float(row["predicted"]) - float(row["true"]))


def case_goodness(run: FinishedRun) -> dict[str, float]:
    """Mean goodness of each case's rows."""
    groups = grouped(run.report.scores.cases, ["case"])
    return {case: statistics.fmean(map(goodness, rows)) for (case,), rows in groups.items()}


def worst_first(runs: Sequence[FinishedRun]) -> list[str]:
    """The scored cases by their mean goodness over the runs, worst first."""
    by_run = [case_goodness(run) for run in runs]
    cases = dict.fromkeys(case for values in by_run for case in values)
    return sorted(cases, key=lambda case: statistics.fmean(values[case] for values in by_run if case in values))


def all_rows(runs: Sequence[FinishedRun], order: Sequence[str]) -> list[dict[str, Any]]:
    """One row per case, run, and region or utterance, cases in the given order."""
    position = {case: i for i, case in enumerate(order)}
    rows = [_row(run, row) for run in runs for row in run.report.scores.cases]
    return sorted(rows, key=lambda row: position[row["case"]])


def cases_section(runs: Sequence[FinishedRun], assets: Assets) -> Section:
    """A table of the mean Dice of each case if regions were scored, and one of all metrics; both can be sorted."""
    order = worst_first(runs)
    rows = all_rows(runs, order)
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if len(runs) > 1 or key != "run"]
    pages = _viewer_pages(runs, assets)
    cells = [[_cell(key, row, pages) for key in columns] for row in rows[:MAX_ROWS]]
    csv = assets.csv(CASES, rows, "CSV of every score of every case")
    of_regions = runs[0].scored == "regions"
    body = render(
        "cases.html",
        distributions=[_distribution(runs, key, assets, csv) for key in SPREAD] if of_regions else [],
        drawn=min(len(runs), MAX_DRAWN),
        runs=len(runs),
        to_view=of_regions and not pages,
        order=ORDER[runs[0].scored],
        means=_mean_table(runs, order, pages) if of_regions else None,
        every=html_table("Every score of every case", [column_name(c) for c in columns], cells, sortable=True),
        count=len(rows),
        csv=csv,
    )
    return Section("Cases", body, wide=True)


def pictures_section(runs: Sequence[FinishedRun], assets: Assets) -> Section | None:
    """Slices with contours of the worst cases, or pictures of all cases together."""
    order = worst_first(runs)
    scores, pages = {run.name: case_goodness(run) for run in runs}, _viewer_pages(runs, assets)
    csv = assets.file(assets.folder / f"{CASES}.csv", "CSV of all cases")
    sources = {
        (case, run.name): path
        for case in order
        for run in runs
        if (path := run.folder.path / "figures" / f"{case}.png").exists()
    }
    drawn: dict[str, list[Picture | str]] = {}
    for (case, name), path in list(sources.items())[:MAX_PICTURES]:
        caption = f"{case}, {name}: mean Dice {scores[name][case]:.3f}"
        alt = f"Slices of case {case} with contours of truth and of the prediction of {name}"
        links = [csv, *([Link("viewer", pages[case, name])] if (case, name) in pages else [])]
        drawn.setdefault(case, []).append(assets.picture(f"case-{case}-{name}", path, alt, caption, *links, photo=True))
    together = [
        assets.picture(f"{name}-{run.name}", path, f"{words} Run {run.name}.", f"{run.name}. {words}", csv)
        for name, words in TOGETHER.items()
        for run in runs[:MAX_PICTURES]
        if (path := run.folder.path / "figures" / f"{name}.png").exists()
    ]
    if not drawn and not together:
        return None
    available = {case for case, _ in sources}
    last = max((order.index(case) for case in available), default=0)
    body = render(
        "pictures.html",
        drawn=drawn,
        count=sum(map(len, drawn.values())),
        available=len(sources),
        undrawn=[case for case in order[:last] if case not in available],
        several=len(runs) > 1,
        together=together,
    )
    return Section("Pictures of predictions", body)


def _viewer_pages(runs: Sequence[FinishedRun], assets: Assets) -> dict[tuple[str, str], str]:
    """Addresses of the pages that 'cggm-med view RUN --all' wrote, by case and run."""
    return {
        (case, run.name): assets.address(page)
        for run in runs
        for case in case_goodness(run)
        if (page := run.folder.viewer_page(case)).exists()
    }


def _distribution(runs: Sequence[FinishedRun], key: str, assets: Assets, csv: Link) -> Picture:
    """A metric of all cases, by region and run."""
    shown = runs[:MAX_DRAWN]
    medians = [
        f"{region} of {run.name} {statistics.median(known):.3g}"
        for run in shown
        for (region,), rows in grouped(run.report.scores.cases, ["region"]).items()
        if (known := [row[key] for row in rows if row[key] is not None])
    ]
    alt = f"{column_name(key)} of every case by region; medians: {', '.join(medians)}"
    return assets.chart(f"cases-{key}", distribution_figure(shown, key), alt, column_name(key), csv)


def _row(run: FinishedRun, row: Record) -> dict[str, Any]:
    case, *others = row.items()
    extended = {"case": case[1], "run": run.name, **dict(others)}
    if "probability" in row:
        extended["right"] = row["true"] == row["predicted"]
    elif "dice" not in row:
        extended["absolute error"] = abs(row["predicted"] - row["true"])
    return extended


def _cell(key: str, row: Mapping[str, Any], pages: Mapping[tuple[str, str], str]) -> Any:
    if key == "case":
        return Cell(row[key], row[key], address=pages.get((row[key], row["run"])))
    if key == "empty":
        return EMPTY.get(row[key], row[key])
    return Cell("no", "no", marked=True) if key == "right" and row[key] is False else row.get(key)


def _mean_table(runs: Sequence[FinishedRun], order: Sequence[str], pages: Mapping[tuple[str, str], str]) -> HtmlTable:
    """Mean Dice of each case, by run; of one run also of each region."""
    columns: dict[str, dict[str, float]] = {run.name: case_goodness(run) for run in runs}
    if len(runs) == 1:
        columns = {"mean": columns[runs[0].name]}
        for row in runs[0].report.scores.cases:
            columns.setdefault(row["region"], {})[row["case"]] = float(row["dice"])
    address: dict[str, str] = {}  # of the first run that has one
    for (case, _), page in pages.items():
        address.setdefault(case, page)
    rows = [
        [Cell(case, case, address=address.get(case)), *(values.get(case) for values in columns.values())]
        for case in order[:MAX_ROWS]
    ]
    caption = "Dice of each case, mean over regions" + (" and by region" if len(runs) == 1 else ", by run")
    return html_table(caption, ["case", *columns], rows, sortable=True, sorted_by=1 if len(runs) == 1 else None)
