"""A page for each case of a split of a run, in the run's folder, each with links to the one before and the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cggm_med.errors import CggmMedError, DataError
from cggm_med.files import require_writable, write_text
from cggm_med.viewer.case import RunCases
from cggm_med.viewer.page import ViewedCase, is_page, page_html


def write_run_pages(run: Path, split: str | None, say: Callable[[str], None], **options: Any) -> list[Path]:
    """Write the pages of all cases of a split; pages of an earlier call are replaced.

    Args:
        run: folder of a finished run.
        split: of the run; default: the held-out cases.
        say: called with a line of progress, and with each case that is left out.
        options: further arguments of ``RunCases``.

    Returns:
        The pages, in their order.

    Raises:
        DataError: if there is no case in the split, or none can be shown.
        OutputError: if a page cannot be written.
    """
    cases = RunCases(run, split=split or "all", say=say, **options)
    ids = cases.ids
    if split is None:
        ids = [id for id in ids if id in (cases.run.splits.test or cases.run.splits.validation)]
    if not ids:
        raise DataError(f"{run} has no case in {split or 'a held-out split'}; name another one with --split")
    folder = cases.run.folder
    require_writable([folder.viewer_page(id) for id in ids], ours=is_page, option="RUN")
    folder.viewer.mkdir(exist_ok=True)
    written: list[Path] = []
    waiting: ViewedCase | None = None

    def write(following: str | None) -> None:
        """Write the case that waits until it is known which one comes next."""
        if waiting is not None:
            before = written[-1].stem if written else None
            page = folder.viewer_page(waiting.name)
            write_text(page, page_html(waiting, before=before, following=following))
            written.append(page)

    try:
        for id in ids:
            try:
                case = cases.view(id)
            except CggmMedError as error:
                say(f"left out {id}: {error}")
                continue
            write(case.name)
            waiting = case
    finally:  # also if it is stopped, so that no page leads nowhere
        write(None)
    if not written:
        raise DataError(f"none of {len(ids)} cases of {run} can be shown; see above")
    return written
