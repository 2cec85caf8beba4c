"""Choosing the finished runs that a report can show side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cggm_med.errors import CggmMedError, DataError, first_of
from cggm_med.runs.finished_run import Excluded, FinishedRun


def reportable_runs(folders: Sequence[Path]) -> tuple[tuple[FinishedRun, ...], tuple[Excluded, ...]]:
    """The runs that can be shown side by side: finished, with the task, splits and data of the first.

    Args:
        folders: of the runs.

    Raises:
        DataError: if no folder is a finished run; says what is wrong with each.
    """
    runs: list[FinishedRun] = []
    excluded: list[Excluded] = []
    seen: set[Path] = set()
    for folder in folders:
        path = folder.resolve()
        try:
            if path in seen:
                raise DataError("it was named twice")
            seen.add(path)
            run = _read(folder)
            if runs and (reason := _difference(runs[0], run)):
                raise DataError(f"{reason}; give it a report of its own")
            runs.append(run)
        except CggmMedError as error:
            excluded.append(Excluded(str(folder), str(error)))
    if not runs:
        raise DataError(
            "nothing to report: expected folders of finished runs, as 'cggm-med train' leaves them:",
            [f"{run.run}: {run.reason}" for run in excluded],
        )
    for run, name in zip(runs, _short_names([run.path for run in runs]), strict=True):
        run.name = name
    return tuple(runs), tuple(excluded)


def _read(path: Path) -> FinishedRun:
    """One run; every file is read now, so that a damaged run is left out."""
    run = FinishedRun(path)
    _ = run.report, run.strategy, run.splits, run.records, run.gradients, run.cost, run.contents
    if not run.report.scores.cases or not run.modalities:
        raise DataError(f"{path} has no scored case")
    return run


def _difference(first: FinishedRun, other: FinishedRun) -> str:
    """Why two runs cannot be shown side by side; empty if they can."""
    if other.task != first.task:
        return f"its task is {other.task}, not {first.task} as in {first.path}"
    for (name, cases), (_, other_cases) in zip(first.splits.items(), other.splits.items(), strict=True):
        if set(cases) != set(other_cases):
            only = len(set(other_cases) - set(cases))
            return (
                f"its {name} split has other cases than that of {first.path} ({len(other_cases)} cases, {only} "
                "of them not there); splits are drawn from train.seed unless data.splits names a file"
            )
    task, data = ([run.settings.get(section, {}) for run in (first, other)] for section in ("task", "data"))
    same_preparation = task[0] == task[1] and data[0].get("spacing") == data[1].get("spacing")
    changed = [
        case
        for case, files in first.contents.items()
        if _changed(files, other.contents.get(case, {}), same_preparation)
    ]
    if changed:
        shown = first_of(changed, 3)
        return f"its data differ from those of {first.path} in {len(changed)} cases of the same name ({shown})"
    return ""


def _changed(first: Mapping[str, str], other: Mapping[str, str], same_preparation: bool) -> bool:
    """Whether the digests of one case are those of different files.

    Prepared data may differ with the settings; they are compared if these are equal or no file is known to both runs.
    """
    files = (first.keys() & other.keys()) - {"prepared"}
    keys = {*files, "prepared"} if same_preparation or not files else files
    return any(first.get(key) != other.get(key) for key in keys)


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The fewest last parts of each path that tell all of them apart.

    Example:
        >>> _short_names([Path("/x/a/run"), Path("/x/b/run")])
        ['a/run', 'b/run']
    """
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            break
    return names
