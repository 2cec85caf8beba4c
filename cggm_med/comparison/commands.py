"""The commands ``compare`` and ``rank``: from their options to trained runs, tables and files."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from scipy import stats

from cggm_med.comparison.budgets import baselines, default_baseline
from cggm_med.comparison.compare import Comparison, compare
from cggm_med.comparison.experiment import Plan, Trainer, modalities_of, plan_runs, require_same, tune, with_teachers
from cggm_med.comparison.notes import notes
from cggm_med.comparison.primary import Declaration, Question, declarations, declare
from cggm_med.comparison.selection import comparable_runs
from cggm_med.comparison.statistics import ranks
from cggm_med.comparison.tables import comparison_tables, shown_in_terminal
from cggm_med.comparison.variants import folder_name, parse_seeds, parse_variants
from cggm_med.comparison.written import FILES, write_comparison
from cggm_med.errors import ConfigError, DataError
from cggm_med.files import require_own, require_writable, results_folder, writable_folder, write_text
from cggm_med.lock import alone
from cggm_med.results.tables import Table, markdown_table, p_text, print_table, rounded
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.provenance import origin, plugins_of
from cggm_med.trees import parse_json


def train_and_compare(
    plan: Plan,
    strategies: str,
    grid: Sequence[str],
    seeds: str,
    folds: int,
    axes: Sequence[str],
    trials: int | None,
    baseline: str | None,
    train: Trainer,
    console: Console,
    question: Question | None = None,
) -> Comparison:
    """Train what is missing and compare all.

    Args:
        plan: what is the same for all runs.
        strategies: see ``variants.parse_variants``.
        grid: see ``variants.parse_variants``.
        seeds: how many, or which, separated by commas.
        folds: of a cross-validation, or 0.
        axes: of the tuning, if there is any.
        trials: of the tuning.
        baseline: name in the tables; default: ``joint``, else the first.
        train: trains what is missing, see ``experiment.train_all`` and ``on_slurm.OnSlurm``.
        console: for progress and tables.
        question: the primary comparison, declared in the folder before anything is trained.

    Raises:
        ConfigError: for options that cannot be parsed.
        OutputError: if the folder holds runs with other settings.
    """
    variants = with_teachers(parse_variants(strategies, grid, modalities_of(plan)))
    chosen_seeds = parse_seeds(seeds)
    names = [variant.name for variant in variants]
    reference = baseline or default_baseline(names)
    against = baselines(names, reference)
    if not against:
        raise ConfigError(f"--baseline {reference} is not among {'; '.join(names)}")
    if question is not None:
        question.check(against)
    require_own(plan.folder, FILES)
    with results_folder(plan.folder), alone(plan.folder, console.print):
        runs = plan_runs(plan, variants, chosen_seeds, folds)
        require_same(plan, runs)
        if question is not None:
            settings: dict[str, Any] = {
                "task": plan.task,
                "preset": plan.preset,
                "set": plan.assignments,
                "strategies": names,
            }
            settings |= {"folds": folds, "tune": list(axes), "subsets": plan.subsets}
            finished = len(list((plan.folder / "runs").glob("*/*/results.json")))
            other = str(against[question.name])
            declare(plan.folder, question, other, finished=finished, seeds=chosen_seeds, settings=settings)
        if axes:
            variants = tune(plan, variants, axes, trials, runs[0], train, console.print)
            runs = plan_runs(plan, variants, chosen_seeds, folds)
        failed = train(plan, runs, console.print)
    tuned = dict(zip(names, (variant.name for variant in variants), strict=True))
    declared = [
        replace(one, name=tuned.get(one.name, one.name), baseline=tuned.get(one.baseline, one.baseline))
        for one in declarations(plan.folder)
    ]
    folders: dict[Path, str | None] = {run.folder: run.variant.name for run in runs}
    for run in failed:
        del folders[Path(run.run)]
    trained, excluded = comparable_runs(folders)
    against = {tuned[name]: other and tuned[other] for name, other in against.items()}
    reference = tuned.get(reference, reference)
    comparison = compare(trained, [*failed, *excluded], reference, declared, against)
    return _show(comparison, plan.folder, console)


def compare_runs(
    folders: Mapping[Path, str | None],
    baseline: str | None,
    out: Path,
    console: Console,
    question: Question | None = None,
) -> Comparison:
    """Compare finished runs, write the tables and show them.

    Args:
        folders: of the runs, and the name of each; None: from its settings.
        baseline: name of the strategy that the others are compared with; default: ``joint``, else the first.
        out: folder to write to.
        console: for the tables.
        question: the primary comparison; default: what the folder has, if it has any.
    """
    require_own(out, FILES)
    runs, excluded = comparable_runs(folders)
    names = list(dict.fromkeys(run.name for run in runs))
    reference = baseline or default_baseline(names)
    if question is not None and runs:
        against = baselines(names, reference)
        question.check(against)
        seeds, other = sorted({run.seed for run in runs}), str(against[question.name])
        declare(writable_folder(out), question, other, finished=len(runs), seeds=seeds, settings={})
    return _show(compare(runs, excluded, reference, _as_named(declarations(out), runs)), out, console)


def _as_named(declared: Sequence[Declaration], runs: Sequence[FinishedRun]) -> list[Declaration]:
    """Declarations with the names that these runs have, found by the folder that a run was trained in.

    A name that is read from a run's settings may write them in another way than the command that trained it.
    """
    found = {run.path.resolve().parent.name: run.name for run in runs} | {run.name: run.name for run in runs}

    def here(name: str) -> str:
        return found.get(name, found.get(folder_name(name), name))

    return [replace(one, name=here(one.name), baseline=here(one.baseline)) for one in declared]


def _show(comparison: Comparison, out: Path, console: Console) -> Comparison:
    """Write the files of a comparison and show its tables."""
    writable_folder(out)
    plugins = {name: version for run in comparison.runs for name, version in plugins_of(run.settings).items()}
    write_comparison(out, comparison, origin(plugins))
    tables = comparison_tables(comparison)
    for table in (t for t in tables if not t.detail):
        print_table(shown_in_terminal(table), console, fold=True)
        for line in notes(comparison) if table is tables[0] else ():
            console.print(line)
    console.print(f"written: {out / 'comparison.html'}, .md, .csv, .json, .tex, {out / 'runs.csv'} and figures")
    return comparison


def rank_tasks(folders: Sequence[Path], out: Path | None, console: Console) -> dict[str, Any]:
    """Rank each strategy in each comparison by its mean, and by its mean rank over all comparisons.

    Args:
        folders: written by ``compare``.
        out: Markdown file to write, or None.
        console: for the table.

    Returns:
        Of each strategy, best first, its rank and mean in each comparison and its mean rank; and the p of Friedman's
        test, None below three comparisons or strategies.

    Raises:
        DataError: if a folder holds no comparison, or fewer than two strategies are in all of them.
    """
    if out is not None:
        require_writable([out], ours=lambda path: path.read_bytes().startswith(b"# Rank of the mean"))
    comparisons = {}
    for folder in folders:
        try:
            content = parse_json((folder / "comparison.json").read_text())
            rows = [row for row in content["rows"] if row["score"] == content["chosen_by"]]
            means = {row["name"]: float(row["mean"]) for row in rows}
        except (OSError, ValueError, KeyError, TypeError) as error:
            absent = isinstance(error, (FileNotFoundError, NotADirectoryError))
            why = "it has no comparison.json" if absent else f"{type(error).__name__}: {error}"
            raise DataError(
                f"{folder} holds no comparison ({why}); name folders that 'cggm-med compare' wrote"
            ) from error
        comparisons[f"{content['task']} ({folder.name})"] = (means, content["lower_is_better"])
    first, _ = next(iter(comparisons.values()))
    common = [name for name in first if all(name in means for means, _ in comparisons.values())]
    if len(common) < 2:
        named = ", ".join(common) or "none"
        raise DataError(
            f"{', '.join(map(str, folders))} must share at least 2 strategies to rank, and share {named}; leave "
            "out those that compare others"
        )
    places = {c: ranks({name: means[name] for name in common}, lower) for c, (means, lower) in comparisons.items()}
    average = {name: statistics.fmean(place[name] for place in places.values()) for name in common}
    lines = tuple(
        (name, *(f"{places[c][name]:g} ({rounded(comparisons[c][0][name])})" for c in places), f"{average[name]:.2f}")
        for name in sorted(common, key=average.__getitem__)
    )
    title = f"rank of the mean among {len(common)} strategies, and the mean"
    p = None
    if len(places) > 2 and len(common) > 2:
        # Friedman 1937: do the strategies differ at all over the tasks?
        p = float(stats.friedmanchisquare(*([place[name] for place in places.values()] for name in common)).pvalue)
        title += f"; Friedman test that all are alike: p {p_text(p)}"
    table = Table(title, ("strategy", *places, "mean rank"), lines)
    print_table(table, console, fold=True)
    if out is not None:
        write_text(out, f"# {title[0].upper()}{title[1:]}\n\n{markdown_table(table.header, table.rows)}\n")
        console.print(f"written: {out}")
    rows = [
        {
            "strategy": name,
            "mean_rank": average[name],
            "comparisons": {c: {"rank": places[c][name], "mean": comparisons[c][0][name]} for c in places},
        }
        for name in sorted(common, key=average.__getitem__)
    ]
    return {"rows": rows, "friedman_p": p}
