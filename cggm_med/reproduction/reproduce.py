"""The command ``reproduce``: train what a table of a paper needs, and write it beside the published figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from cggm_med.comparison.experiment import Plan, Trainer, plan_runs, train_all, with_teachers
from cggm_med.comparison.selection import FOLDS, comparable_runs
from cggm_med.comparison.variants import Variant, parse_variants
from cggm_med.config import flat, merge, parse_overrides
from cggm_med.errors import DataError
from cggm_med.files import require_own, results_folder
from cggm_med.lock import alone
from cggm_med.reproduction.cells import cells
from cggm_med.reproduction.figures import draw
from cggm_med.reproduction.outcome import Outcome
from cggm_med.reproduction.paper_table import DataSet, PaperTable
from cggm_med.reproduction.sweep import draw_sweep
from cggm_med.reproduction.written import FILES, shown_in_terminal, write
from cggm_med.results.tables import print_table
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.provenance import origin

TINY = "tiny"  # the preset of every task for its generated data
# Settings of every short run on generated data
PHANTOM = ("train.validate_every=1", "train.checkpoint_every=50", "train.log_every=1", "data.workers=0")


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asks for besides the table.

    Attributes:
        folder: to write to.
        data: for ``--data``; None for generated data.
        seeds: of the runs.
        folds: of a cross-validation, or 0; None: those of the table, unless ``settings`` choose one.
        settings: ``SECTION.KEY=VALUE``, which replace those of the paper.
        train: trains what is missing, see ``experiment.train_all`` and ``on_slurm.OnSlurm``.
    """

    folder: Path
    data: Path | None
    seeds: Sequence[int]
    folds: int | None = None
    settings: Sequence[str] = ()
    train: Trainer = train_all

    @property
    def phantom(self) -> bool:
        """Whether the data are generated, so that no figure is a result."""
        return self.data is None


def what_to_get(name: str, data: DataSet, command: str = "reproduce") -> DataError:
    """An error that says which data a table or benchmark needs, how to lay them out, and how to try without."""
    lines = [
        *data.layout,
        f"get it: {data.source}",
        f"then: cggm-med {command} {name} --data PATH -o FOLDER",
        f"to see the same path in minutes, on generated data: cggm-med {command} {name} --phantom",
    ]
    return DataError(f"{name} needs {data.title}; give --data PATH, a folder (or file) that holds:", lines)


def plan_of(table: PaperTable, request: Request) -> Plan:
    """What is the same for all runs of a table."""
    short = (*PHANTOM, *table.phantom) if request.phantom else ()
    settings = (*table.settings, *short, *request.settings)
    data = {} if request.data is None else {"data": {"path": str(request.data.resolve())}}
    return Plan(
        request.folder,
        table.task,
        TINY if request.phantom else table.preset,
        None,
        merge([parse_overrides(settings), data]),
        settings,
    )


def folds_of(table: PaperTable, request: Request) -> int:
    """Of how many folds each seed has a run, 0 for one division of the data."""
    if request.folds is not None:
        return request.folds
    chosen = {*FOLDS, "data.splits"} & flat(parse_overrides(request.settings)).keys()
    return 0 if chosen else table.folds


def variants_of(table: PaperTable) -> dict[str, Variant]:
    """The variants of a table, by their words.

    Raises:
        UnknownName: for a strategy that is not installed.
        ConfigError: for words that cannot be parsed.
    """
    return {words: parse_variants(words)[0] for words in table.variants}


def reproduce(table: PaperTable, request: Request, console: Console) -> Outcome:
    """Train what is missing, write table and figures, and show the table.

    Args:
        table: of a paper.
        request: data, seeds and folder.
        console: for progress and the table.

    Returns:
        What was written.

    Raises:
        OutputError: if the folder holds runs with other settings.
        ConfigError, UnknownName: for settings that are none.
    """
    plan, variants, folds = plan_of(table, request), variants_of(table), folds_of(table, request)
    require_own(request.folder, FILES)
    with results_folder(request.folder), alone(request.folder, console.print):
        planned = plan_runs(plan, with_teachers(tuple(dict.fromkeys(variants.values()))), request.seeds, folds)
        failed = request.train(plan, planned, console.print)
    lost = {Path(run.run) for run in failed}
    folders = {run.folder: run.variant.name for run in planned if run.folder not in lost}
    runs, excluded = comparable_runs(folders)
    by_variant = {words: [run for run in runs if run.name == variant.name] for words, variant in variants.items()}
    found, figures = tuple(cells(table, by_variant)), request.folder / "figures"
    outcome = Outcome(
        table=table,
        cells=found,
        seeds=tuple(request.seeds),
        folds=folds,
        changed=tuple(request.settings),
        phantom=request.phantom,
        excluded=(*failed, *excluded),
        figures=(
            *draw_sweep(figures, table, found, request.phantom),
            *draw(figures, table, _first_runs(table, by_variant), request.phantom),
        ),
        provenance=origin(),
    )
    write(request.folder, outcome)
    print_table(shown_in_terminal(outcome), console, fold=True)
    console.print(f"written: {request.folder / 'table.md'}, .csv, .json" + (" and figures" if outcome.figures else ""))
    return outcome


def _first_runs(table: PaperTable, runs: Mapping[str, Sequence[FinishedRun]]) -> list[FinishedRun]:
    """The first run of each row, named as the row, for pictures."""
    first = [(row.name, runs.get(row.variant, ())) for row in table.rows]
    return [FinishedRun(group[0].path, name) for name, group in first if group]
