"""The command ``benchmark``: train on the cases of a published list, or take finished runs, and write the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cggm_med.comparison.experiment import Part, Plan, plan_parts, task_of, with_teachers, written_part
from cggm_med.comparison.selection import comparable_runs
from cggm_med.comparison.variants import MODALITIES as OF_MODALITIES
from cggm_med.comparison.variants import Variant, parse_variants
from cggm_med.config import flat, merge, parse_overrides
from cggm_med.data.splits import Splits
from cggm_med.errors import ConfigError
from cggm_med.evaluation.ask import ask
from cggm_med.evaluation.subsets.question import SubsetQuestion
from cggm_med.files import require_own, results_folder, writable_folder
from cggm_med.lock import alone
from cggm_med.reproduction.benchmark.case_lists import case_lists, first_cases, in_folder
from cggm_med.reproduction.benchmark.catalogue import MODALITIES, Benchmark
from cggm_med.reproduction.benchmark.phantom import TASK, write_named_phantom
from cggm_med.reproduction.benchmark.scores import incomplete, require_benchmark, scored_cases
from cggm_med.reproduction.benchmark.written import FILES, Outcome, tables, write
from cggm_med.reproduction.reproduce import PHANTOM, TINY, Request
from cggm_med.results.tables import print_table
from cggm_med.runs.finished_run import Excluded, FinishedRun
from cggm_med.runs.provenance import origin

# What the list decides
DECIDED = {"data.path", "data.splits", "data.fold", "data.validation", "data.test", OF_MODALITIES}
WITH_HD95 = "task.subset_hd95=true"
OF_SUBSETS = (
    "grid",
    "regions",
    "Dice",
    "HD95",
    "empty region",
    "threshold",
)  # rules of a run that hold for subsets too
PHANTOM_CASES = 2  # of each list
SHORT = (*PHANTOM, "train.epochs=1", "train.steps_per_epoch=4", "train.batch_size=2")


def train_benchmark(
    benchmark: Benchmark, request: Request, strategies: str, preset: str | None, console: Console
) -> Outcome:
    """Train what is missing on each split, score every subset, write the tables and show them.

    Args:
        benchmark: whose cases.
        request: data, seeds and folder; its ``folds`` are not used, since the lists are the splits.
        strategies: see ``variants.parse_variants``.
        preset: of the task; default: the one that suits the data.
        console: for progress and tables.

    Raises:
        ConfigError: for settings that contradict the list, or are none.
        DataError: if the folder lacks a case of the list; nothing is trained then.
        OutputError: if the folder holds runs with other settings.
    """
    variants = with_teachers(parse_variants(strategies, (), MODALITIES))
    given = {key for variant in variants for key, _ in variant.settings} | flat(
        parse_overrides(request.settings)
    ).keys()
    if decided := sorted(DECIDED & given):
        raise ConfigError(f"{', '.join(decided)}: benchmark {benchmark.name} decides this by its list; leave it out")
    lists = case_lists(benchmark)
    require_own(request.folder, FILES)
    with results_folder(request.folder), alone(request.folder, console.print):
        if request.phantom:
            lists = first_cases(lists, PHANTOM_CASES)
            names = sorted({id for splits in lists for _, ids in splits.items() for id in ids})
            write_named_phantom(request.folder / "phantom", benchmark, names)
        plan = _plan(request, preset)
        parts = _parts(benchmark, lists, plan, variants[0], console)
        planned = plan_parts(plan, variants, request.seeds, parts)
        failed = request.train(plan, planned, console.print)
    lost = {Path(run.run) for run in failed}
    names_of = {run.folder: run.variant.name for run in planned if run.folder not in lost}
    runs, excluded = comparable_runs(dict(names_of))
    return _finish(benchmark, lists, runs, [*failed, *excluded], request.folder, console, phantom=request.phantom)


def score_runs(benchmark: Benchmark, folders: Sequence[Path], out: Path, console: Console) -> Outcome:
    """Score every subset of finished runs, unless that was done, write the tables and show them.

    Args:
        benchmark: on whose cases the runs were trained.
        folders: of the runs.
        out: folder to write to.
        console: for progress and tables.

    Raises:
        ConfigError: if a run was trained on other cases, or has other modalities or regions.
        CheckpointError: if a folder is no finished run.
    """
    require_own(out, FILES)
    lists = case_lists(benchmark)
    for folder in folders:
        require_benchmark(benchmark, lists, run := FinishedRun(folder))
        if not run.subsets:
            ask(SubsetQuestion("all"), folder, parse_overrides([WITH_HD95]), console, split=None, out=None)
    runs, excluded = comparable_runs(dict.fromkeys(folders))
    return _finish(benchmark, lists, runs, excluded, writable_folder(out), console, phantom=False)


def _plan(request: Request, preset: str | None) -> Plan:
    data = request.folder / "phantom" if request.data is None else request.data
    settings = (*(SHORT if request.phantom else ()), WITH_HD95, *request.settings)
    overrides = merge([parse_overrides(settings), {"data": {"path": str(data.resolve())}}])
    return Plan(request.folder, TASK, TINY if request.phantom else preset, None, overrides, settings, subsets=True)


def _parts(benchmark: Benchmark, lists: Sequence[Splits], plan: Plan, variant: Variant, console: Console) -> list[Part]:
    task = task_of(plan, variant)
    task.find(console.print)
    every = in_folder(benchmark, lists, task.members, str(plan.overrides["data"]["path"]), console.print)
    names = ["split"] if len(every) == 1 else [f"split-{number}-of-{len(every)}" for number in range(1, len(every) + 1)]
    files = [plan.folder / "splits" / f"{name}.json" for name in names]
    return [written_part(file, splits, task) for file, splits in zip(files, every, strict=True)]


def _finish(
    benchmark: Benchmark,
    lists: Sequence[Splits],
    runs: Sequence[FinishedRun],
    excluded: Sequence[Excluded],
    folder: Path,
    console: Console,
    *,
    phantom: bool,
) -> Outcome:
    if not runs:
        why = "".join(f"\n  {run.run}: {run.reason}" for run in excluded)
        raise ConfigError(f"no run of {benchmark.name} could be scored{why}")
    by_name = {name: [run for run in runs if run.name == name] for name in dict.fromkeys(run.name for run in runs)}
    cases = scored_cases(benchmark, lists, by_name)
    outcome = Outcome(
        benchmark,
        tuple(cases),
        tuple(_trained(name, group) for name, group in by_name.items()),
        tuple(incomplete(cases, len(lists))),
        phantom,
        tuple(excluded),
        {name: text for name, text in runs[0].report.rules.items() if name in OF_SUBSETS},
        origin(),
        float(runs[0].settings["data"]["empty_hd95_mm"]),
    )
    write(folder, outcome)
    for table in (table for table in tables(outcome) if not table.detail):
        print_table(table, console, fold=True)
    for line in (*outcome.notes, *(f"{run.run}: {run.reason}" for run in excluded)):
        console.print(line)
    console.print(f"written: {folder / 'benchmark.md'}, .csv, .json, and {folder / 'cases.csv'}")
    return outcome


def _trained(name: str, runs: Sequence[FinishedRun]) -> str:
    """Preset and length of the runs of a strategy, which a figure has to be read with."""
    settings, seeds = runs[0].settings, sorted({run.seed for run in runs})
    train, patch = settings["train"], " x ".join(map(str, settings["data"]["patch_size"]))
    return (
        f"{name}: preset {settings['preset']}, {train['epochs']} epochs of {train['steps_per_epoch']} steps, each of "
        f"{train['batch_size']} patches of {patch} voxels, seeds {', '.join(map(str, seeds))}"
    )
