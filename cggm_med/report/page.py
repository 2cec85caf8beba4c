"""The page: everything that a report of runs says, in one file that needs no other."""

from __future__ import annotations

import base64
import datetime
import hashlib
import importlib.metadata
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from string import Template

from cggm_med.errors import OutputError
from cggm_med.files import atomic_folder, write_text
from cggm_med.report import sections
from cggm_med.report.assets import Assets
from cggm_med.report.cases import cases_section, pictures_section
from cggm_med.report.markup import Markup, anchor, element, note, text
from cggm_med.report.runs import ReportedRun, read_runs
from cggm_med.report.sections import Evaluation

TEMPLATES = Path(__file__).with_name("templates")
EVALUATIONS = (
    Evaluation(
        "subsets",
        "Modality subsets",
        "What is left when modalities are missing: the score of every subset of them.",
        "cggm-med evaluate RUN --subsets all",
    ),
    Evaluation(
        "calibration",
        "Calibration",
        "Whether predictions are right as often as their probabilities say.",
        "cggm-med evaluate RUN --calibration",
        ("regions", "classes"),
    ),
    Evaluation(
        "probe",
        "Linear probes",
        "How well each encoder was trained: the score of a linear read-out of its frozen features.",
        "cggm-med probe RUN",
    ),
    Evaluation(
        "robustness",
        "Robustness",
        "What artefacts of MRI in one modality, or in all, cost.",
        "cggm-med evaluate RUN --corrupt motion,bias,noise",
        ("regions",),
    ),
)


def write_report(folders: Sequence[Path], out: Path | None = None, say: Callable[[str], object] = print) -> Path:
    """Write one self-contained HTML file about finished runs, and a folder beside it with its figures and numbers.

    The folder has the file's name with ``_files`` in place of the suffix. Runs that cannot stand beside the first are
    left out, with the reason on the page.

    Args:
        folders: of the runs.
        out: HTML file that does not exist yet; default: ``report.html``, or ``report-2.html`` and so on.
        say: told which runs are left out.

    Returns:
        The HTML file.

    Raises:
        DataError: if no folder is a finished run.
        OutputError: if the file or its folder exists or cannot be written.
    """
    target = out or _free()
    beside = target.with_name(f"{target.stem}_files")
    for path in (target, beside):
        if path.exists():
            raise OutputError(f"{path} is there already; remove it, or choose another name with -o")
    runs, excluded = read_runs(folders)
    for x in excluded:
        say(f"left out {x.folder}: {x.reason}")
    with atomic_folder(beside) as temporary:
        assets = Assets(temporary, beside.name)
        body = _body(runs, [sections.summary_section(runs, excluded, assets), *_rest(runs, assets)], assets)
    write_text(target, _page(_title(runs), body))
    return target


def _free() -> Path:
    """A name that neither a page nor its folder has."""
    names = itertools.chain(["report"], (f"report-{number}" for number in itertools.count(2)))
    return next(Path(f"{name}.html") for name in names if not _any_exists(Path(f"{name}.html"), Path(f"{name}_files")))


def _any_exists(*paths: Path) -> bool:
    return any(path.exists() for path in paths)


def _rest(runs: Sequence[ReportedRun], assets: Assets) -> list[Markup]:
    # The pictures of cases come first in the making, since they need the page's room most and are asked for first.
    pictures = pictures_section(runs, assets)
    return [
        sections.configuration_section(runs, assets),
        sections.curves_section(runs, assets),
        sections.gradients_section(runs, assets),
        cases_section(runs, assets),
        *([pictures] if pictures is not None else []),
        *(sections.evaluation_section(runs, assets, x) for x in EVALUATIONS if runs[0].scored in x.of),
        sections.cost_section(runs, assets),
        sections.provenance_section(runs),
    ]


def _title(runs: Sequence[ReportedRun]) -> str:
    strategies = ", ".join(dict.fromkeys(run.strategy for run in runs))
    return f"{runs[0].task}: {strategies}"


def _body(runs: Sequence[ReportedRun], parts: Sequence[Markup], assets: Assets) -> Markup:
    titles = [part.split("<h2>", 1)[1].split("</h2>", 1)[0] for part in parts]
    links = [element("li", element("a", Markup(t), href=f"#{anchor(t)}")) for t in titles]
    version = importlib.metadata.version("cggm-med")
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    left_out = (
        note(
            f"Left out of the page, which would be too large, and only in {assets.link}: {', '.join(assets.left_out)}."
        )
        if assets.left_out
        else None
    )
    return text(
        [
            element(
                "header",
                element("h1", _title(runs)),
                element("p", f"Written by cggm-med {version} on {date}.", class_="note"),
            ),
            element("nav", element("ul", links), aria_label="Sections"),
            element("main", parts, left_out),
            element(
                "footer",
                element(
                    "p", f"Figures as PNG and numbers as CSV: folder {assets.link} beside this file.", class_="note"
                ),
            ),
        ]
    )


def _page(title: str, body: Markup) -> str:
    """The whole file. Its own rules forbid the browser to load anything, or to run any script but ours."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    template = Template((TEMPLATES / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=text(title),
        style=style,
        style_digest=_digest(style),
        script=script,
        script_digest=_digest(script),
        body=body,
    )


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
