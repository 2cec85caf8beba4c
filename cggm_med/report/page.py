"""Writing a report of finished runs: one self-contained HTML page, and a folder of figures and numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from cggm_med.errors import OutputError
from cggm_med.files import atomic_folder, require_writable, write_text
from cggm_med.pages.page import Section
from cggm_med.report import sections
from cggm_med.report.assets import Assets
from cggm_med.report.cases import cases_section, pictures_section
from cggm_med.report.paper import paper_section
from cggm_med.report.render import PAGES
from cggm_med.report.selection import reportable_runs
from cggm_med.runs.finished_run import Excluded, FinishedRun

MAX_PAGE_BYTES = 10_000_000


def write_report(folders: Sequence[Path], out: Path | None = None, say: Callable[[str], object] = print) -> Path:
    """Write one self-contained HTML file about finished runs, and a folder beside it with its figures and numbers.

    The folder has the file's name with ``_files`` in place of the suffix. Runs that cannot be compared with the first
    are left out, with the reason on the page.

    Args:
        folders: of the runs.
        out: HTML file that does not exist yet; default: ``report.html``, or ``report-2.html`` and so on.
        say: called with each run that is left out.

    Returns:
        The HTML file.

    Raises:
        DataError: if no folder is a finished run.
        OutputError: if the file or its folder exists or cannot be written, or the page would be larger than 10 MB.
    """
    target = out or _free()
    beside = target.with_name(f"{target.stem}_files")
    for path in (target, beside):
        if path.exists():
            raise OutputError(f"{path} is there already; remove it, or choose another name with -o")
    require_writable([target])
    runs, excluded = reportable_runs(folders)
    for run in excluded:
        say(f"left out {run.run}: {run.reason}")
    with atomic_folder(beside) as temporary:
        assets = Assets(temporary, target)
        content = _sections(runs, excluded, assets)
        strategies = ", ".join(dict.fromkeys(run.strategy for run in runs))
        page = PAGES.page(
            "page.html",
            title=f"{runs[0].task}: {strategies}",
            sections=content,
            left_out=assets.left_out,
            folder=assets.link,
        )
        if (size := len(page.encode())) > MAX_PAGE_BYTES:
            raise OutputError(
                f"the report of {len(runs)} runs would have {size / 1e6:.2g} MB; expected at most "
                f"{MAX_PAGE_BYTES / 1e6:g}; name fewer runs"
            )
    write_text(target, page)
    return target


def _free() -> Path:
    """A file name that is not used, nor that of its folder."""
    names = itertools.chain(["report"], (f"report-{number}" for number in itertools.count(2)))
    return next(
        Path(f"{name}.html") for name in names if not (Path(f"{name}.html").exists() or Path(f"{name}_files").exists())
    )


def _sections(runs: Sequence[FinishedRun], excluded: Sequence[Excluded], assets: Assets) -> list[Section]:
    summary = sections.summary_section(runs, excluded, assets)
    # The pictures of cases are made before the sections above them, so that they are the first to get room on the page.
    pictures = pictures_section(runs, assets)
    kinds = [kind for kind in sections.EVALUATIONS if runs[0].scored in kind.of]
    return [
        summary,
        sections.configuration_section(runs, assets),
        sections.curves_section(runs, assets),
        sections.gradients_section(runs, assets),
        cases_section(runs, assets),
        *([pictures] if pictures else []),
        *(sections.evaluation_section(runs, assets, kind) for kind in kinds),
        sections.cost_section(runs, assets),
        paper_section(runs, assets),
        sections.provenance_section(runs),
    ]
