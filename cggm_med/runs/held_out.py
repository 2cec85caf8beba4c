"""Refuse another run that knows the cases which a new run holds out."""

from __future__ import annotations

from cggm_med.errors import DataError, counted, first_of
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.task.base import Task


def require_held_out_unseen(run: FinishedRun, task: Task, what: str) -> None:
    """Refuse a run that knows cases by which a new one is to be chosen or scored.

    Args:
        run: that the new one learns or starts from.
        task: of the new run, prepared.
        what: how messages call it.

    Raises:
        DataError: names cases that it was trained on and the new run holds out, or chosen by and the new run tests.
    """
    trained, chosen = (run.folder.digests(cases) for cases in (run.splits.train, run.splits.validation))
    contents = task.contents()
    for cases, seen, how in (
        ((*task.splits.validation, *task.splits.test), trained, "trained on"),
        (task.splits.test, chosen, "chosen by"),
    ):
        if familiar := [case for case in cases if not seen.isdisjoint(contents[case].values())]:
            raise DataError(
                f"{what} was {how} {counted(len(familiar), 'case')} that this run holds out ({first_of(familiar)}); "
                "train one on the same splits"
            )
