"""Reading the runs of a report, and telling which of them cannot stand side by side and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cggm_med.config import Tree
from cggm_med.data.splits import Splits
from cggm_med.errors import CggmMedError, DataError
from cggm_med.results.results import Record, Report
from cggm_med.runs.folder import RunFolder


@dataclass(frozen=True)
class ReportedRun:
    """A finished run as it lies on disk.

    Attributes:
        name: short and unlike those of the others.
        folder: its files.
        settings: of ``config.yaml``.
        report: of its held-out cases.
        records: of ``metrics.jsonl``.
        gradients: of ``gradients.jsonl``; empty if the run has no such file.
        cost: of ``cost.json``; empty if the run has no such file.
        splits: case ids.
        contents: of ``data.json``, digests by case.
    """

    name: str
    folder: RunFolder
    settings: Tree
    report: Report
    records: Sequence[Record]
    gradients: Sequence[Record]
    cost: Record
    splits: Splits
    contents: Mapping[str, Mapping[str, str]]

    @property
    def task(self) -> str:
        """Its registered name."""
        return str(self.settings["task"]["name"])

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it was trained on."""
        return tuple(self.settings["task"]["modalities"])

    @property
    def scored(self) -> str:
        """What was scored: ``regions``, ``classes`` or ``values``."""
        row = self.report.scores.cases[0]
        return "regions" if "dice" in row else "classes" if "probability" in row else "values"

    @property
    def strategy(self) -> str:
        """Its registered name."""
        return self.report.strategy


@dataclass(frozen=True)
class Excluded:
    """A folder that was named and is not in the report."""

    folder: Path
    reason: str


def read_runs(folders: Sequence[Path]) -> tuple[tuple[ReportedRun, ...], tuple[Excluded, ...]]:
    """The runs that can stand side by side: finished, of the task, splits and data of the first of them.

    Args:
        folders: of the runs.

    Raises:
        DataError: if no folder is a finished run; lists what is wrong with each.
    """
    runs: list[ReportedRun] = []
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
            excluded.append(Excluded(folder, str(error)))
    if not runs:
        raise DataError(
            "nothing to report: expected folders of finished runs, as 'cggm-med train' leaves them:",
            [f"{x.folder}: {x.reason}" for x in excluded],
        )
    names = _short_names([run.folder.path for run in runs])
    return tuple(replace(run, name=name) for run, name in zip(runs, names, strict=True)), tuple(excluded)


def _read(path: Path) -> ReportedRun:
    """One run.

    Raises:
        CggmMedError: if it is no run, is not finished or is damaged.
    """
    folder = RunFolder(path)
    settings = folder.stored_settings()
    if not folder.results.exists():
        raise DataError(
            f"it is incomplete: it has no {folder.results.name}; finish it with 'cggm-med train --resume {path}' "
            "(a run that held no case out has no scores to report)"
        )
    splits = folder.read_splits()
    try:
        run = ReportedRun(
            name=path.name,
            folder=folder,
            settings=settings,
            report=Report.from_json(json.loads(folder.results.read_text())),
            records=folder.read_metrics(),
            gradients=folder.read_gradients(),
            cost=json.loads(folder.cost.read_text()) if folder.cost.exists() else {},
            splits=splits,
            contents=json.loads(folder.data.read_text()),
        )
        if not run.report.scores.cases or not run.modalities:
            raise ValueError("no case was scored")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"it is damaged or incomplete ({type(error).__name__}: {error}); finish it with 'cggm-med train --resume "
            f"{path}' or put back a whole copy"
        ) from error
    return run


def _difference(first: ReportedRun, other: ReportedRun) -> str:
    """Why two runs cannot stand side by side; empty if they can."""
    if other.task != first.task:
        return f"its task is {other.task}, not {first.task} as in {first.folder.path}"
    for (name, mine), (_, theirs) in zip(first.splits.items(), other.splits.items(), strict=True):
        if set(mine) != set(theirs):
            only = len(set(theirs) - set(mine))
            return (
                f"its {name} split has other cases than that of {first.folder.path} ({len(theirs)} cases, {only} "
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
        shown = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        return f"its data differ from those of {first.folder.path} in {len(changed)} cases of the same name ({shown})"
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
