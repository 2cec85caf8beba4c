"""Which finished runs can stand side by side in a report, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cggm_med.errors import CggmMedError, DataError, first_of
from cggm_med.runs.finished import Excluded, FinishedRun


def reportable_runs(folders: Sequence[Path]) -> tuple[tuple[FinishedRun, ...], tuple[Excluded, ...]]:
    """The runs that can stand side by side: finished, of the task, splits and data of the first of them.

    Args:
        folders: of the runs.

    Raises:
        DataError: if no folder is a finished run; lists what is wrong with each.
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
            [f"{x.run}: {x.reason}" for x in excluded],
        )
    for run, name in zip(runs, _short_names([run.path for run in runs]), strict=True):
        run.name = name
    return tuple(runs), tuple(excluded)


def _read(path: Path) -> FinishedRun:
    """One run, of which every file is read now, so that a damaged run is left out."""
    run = FinishedRun(path)
    _ = run.report, run.strategy, run.splits, run.records, run.gradients, run.cost, run.contents
    if not run.report.scores.cases or not run.modalities:
        raise DataError(f"{path} has no scored case")
    return run


def _difference(first: FinishedRun, other: FinishedRun) -> str:
    """Why two runs cannot stand side by side; empty if they can."""
    if other.task != first.task:
        return f"its task is {other.task}, not {first.task} as in {first.path}"
    for (name, mine), (_, theirs) in zip(first.splits.items(), other.splits.items(), strict=True):
        if set(mine) != set(theirs):
            only = len(set(theirs) - set(mine))
            return (
                f"its {name} split has other cases than that of {first.path} ({len(theirs)} cases, {only} "
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


def _changed(mine: Mapping[str, str], theirs: Mapping[str, str], same_preparation: bool) -> bool:
    """Whether digests of one case speak of different files.

    What was made of the files may differ with the settings, and is compared where these are equal or nothing else is.
    """
    files = (mine.keys() & theirs.keys()) - {"prepared"}
    keys = {*files, "prepared"} if same_preparation or not files else files
    return any(mine.get(key) != theirs.get(key) for key in keys)


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
