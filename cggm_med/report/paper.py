"""The section of a report that helps to write a paper: methods in words, and answers to checklists."""

from __future__ import annotations

from collections.abc import Sequence

from cggm_med.files import write_text
from cggm_med.pages.page import Section
from cggm_med.pages.tables import html_table
from cggm_med.report.assets import Assets
from cggm_med.report.checklists import answers
from cggm_med.report.methods import facts_of, methods_paragraph
from cggm_med.report.render import render
from cggm_med.runs.finished_run import FinishedRun

METHODS = "methods.txt"


def paper_section(runs: Sequence[FinishedRun], assets: Assets) -> Section:
    """The methods of each run, and for each item of the checklists the answer of each run.

    ``methods.txt`` and ``checklists.csv`` hold the same beside the page.
    """
    paragraphs = [(run.name, methods_paragraph(run)) for run in runs]
    said = [f"{name}\n\n{text}\n" if len(runs) > 1 else f"{text}\n" for name, text in paragraphs]
    write_text(assets.folder / METHODS, "\n".join(said))
    of_runs = {run.name: answers(facts_of(run)) for run in runs}
    items = next(iter(of_runs.values()))
    rows = [{"run": name, **item} for name, found in of_runs.items() for item in found]
    names = list(of_runs) if len(runs) > 1 else ["answer"]
    tables = [
        html_table(
            checklist,
            ["item", "subject", *names],
            [
                [item["item"], item["subject"], *(found[i]["answer"] for found in of_runs.values())]
                for i, item in enumerate(items)
                if item["checklist"] == checklist
            ],
        )
        for checklist in dict.fromkeys(item["checklist"] for item in items)
    ]
    links = [
        assets.file(assets.folder / METHODS, "methods as text"),
        assets.csv("checklists", rows, "CSV of the lists"),
    ]
    return Section("For a paper", render("paper.html", paragraphs=paragraphs, tables=tables, links=links), wide=True)
