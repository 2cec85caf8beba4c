"""Choosing the finished runs that can be compared with one another, and naming them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cggm_med.comparison.variants import MODALITIES, variant_name
from cggm_med.config import Tree, flat, to_tree
from cggm_med.errors import CggmMedError
from cggm_med.runs.finished_run import Excluded, FinishedRun
from cggm_med.runs.settings import as_trained, completed, make_config
from cggm_med.training.resume_check import FREE_SETTINGS

# Runs must agree in these sections; a difference elsewhere becomes part of the name.
SHARED_SECTIONS = ("task", "data", "preset", "split")
# Of the runs of one strategy these differ from seed to seed.
DRAWS = ("train.seed", "data.phantom_seed")
# These choose one fold of a data set's own, see ``Task.own_folds``; folds of a seed make up one score.
FOLDS = ("data.fold", "data.split")
# Settings that neither forbid a comparison nor name a run; but which components are removed decides its scores.
IRRELEVANT = {*FREE_SETTINGS, *DRAWS, *FOLDS, "strategy.name", "strategy.teacher"} - {"task.component_filter"}


def comparable_runs(folders: Mapping[Path, str | None]) -> tuple[list[FinishedRun], list[Excluded]]:
    """Read runs and leave out, with the reason, those that cannot be compared with most of the others.

    Args:
        folders: of runs, and the name of each; default: its strategy and all settings that are not that strategy's
            defaults, except those that all runs share.
    """
    runs: list[FinishedRun] = []
    excluded: list[Excluded] = []
    for folder, name in folders.items():
        try:
            runs.append(_read(folder, name))
        except CggmMedError as error:
            excluded.append(Excluded(str(folder), str(error)))
    if not runs:
        return runs, excluded
    usual = Counter(_shared(run) for run in runs).most_common(1)[0][0]
    known: dict[tuple[str, ...], str] = {}
    seen: dict[tuple[str, tuple[int, frozenset[str]]], Path] = {}
    kept = []
    for run in runs:
        reason = None
        if _shared(run) != usual:
            own, others = dict(_shared(run)), dict(usual)
            keys = sorted(key for key in {*own, *others} if own.get(key) != others.get(key))
            reason = "; ".join(f"{key} is {own.get(key)}, of most runs {others.get(key)}" for key in keys)
        elif other := [key[0] for key, digest in _sources(run) if known.setdefault(key, digest) != digest]:
            reason = f"{len(other)} of its cases hold other data under the same name ({', '.join(other[:3])})"
        elif twin := seen.get((run.name, run.pair)):
            reason = f"the same strategy, settings, seed and cases as {twin}"
        if reason is None:
            seen[run.name, run.pair] = run.path
            kept.append(run)
        else:
            excluded.append(Excluded(str(run.path), reason))
    if not any(folders.values()):
        names = without_common(run.name for run in kept)
        for run in kept:
            run.name = names[run.name]
    return kept, excluded


def without_common(names: Iterable[str]) -> dict[str, str]:
    """Names without the settings that all of them share.

    Example:
        >>> without_common(["joint, epochs=5", "cggm, epochs=5, rho=1.3"])
        {'joint, epochs=5': 'joint', 'cggm, epochs=5, rho=1.3': 'cggm, rho=1.3'}
    """
    parts = {name: name.split(", ") for name in names}
    if len(parts) < 2:
        return {name: name for name in parts}
    common = set.intersection(*(set(words[1:]) for words in parts.values()))
    return {
        name: ", ".join(w for i, w in enumerate(words) if i == 0 or w not in common) for name, words in parts.items()
    }


def _read(folder: Path, name: str | None) -> FinishedRun:
    """One run; every file that the comparison needs is read now, so that a damaged run is left out."""
    run = FinishedRun(folder)
    run.name = name or run.whole(run.folder.config, lambda file: _name(run.settings))
    _ = run.report, run.values, run.seed, run.contents, run.splits, run.cost, run.steps
    return run


def _sources(run: FinishedRun) -> Iterator[tuple[tuple[str, ...], str]]:
    """Digests of a run's cases: of each file, and of what was prepared from all of them for these modalities."""
    fold = str(run.settings["data"].get("fold"))  # by whose statistics it may be normalised
    for case, digests in run.contents.items():
        for of, digest in digests.items():
            yield (case, of, *((*run.modalities, fold) if of == "prepared" else ())), digest


def _shared(run: FinishedRun) -> tuple[tuple[str, str], ...]:
    """The settings in which runs must agree, as text."""
    settings = {**flat(completed(run.settings)), "split": run.report.split}
    same = {
        key: value
        for key, value in settings.items()
        if key.split(".")[0] in SHARED_SECTIONS and key not in {*IRRELEVANT, MODALITIES}
    }
    return tuple(sorted((key, str(value)) for key, value in same.items()))


def _name(stored: Tree) -> str:
    strategy = str(stored["strategy"]["name"])
    base: Tree = {"data": {"path": stored["data"].get("path")}}
    plain = flat(to_tree(make_config(stored["task"]["name"], [base], preset=stored["preset"], strategy=strategy)))
    own = {
        key: str(value).lower() if isinstance(value, bool) else re.sub(r"[ ']", "", str(value))
        for key, value in flat(as_trained(stored)).items()
        if key not in IRRELEVANT
        and (key == MODALITIES or key.split(".")[0] not in SHARED_SECTIONS)
        and value != plain.get(key)
        and (key != "train.steps_per_epoch" or plain.get(key))  # 0 is replaced by a number from the data
    }
    return variant_name(strategy, own)
