"""Measure on a run's validation cases what is to be expected of a mask, for each subset of the modalities.

What ``predict`` then says of a mask is what was measured for exactly the modalities that it was made from.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from cggm_med import distributed
from cggm_med.config import Tree
from cggm_med.device import select_device
from cggm_med.errors import ConfigError, DataError, first_of
from cggm_med.evaluation.calibration.regions import NEAR, REACH_MM, counted_voxels
from cggm_med.evaluation.calibration.scores import LOG_ODDS, RegionPredictions, fit_temperature
from cggm_med.evaluation.subsets.table import MAX_SHOWN, Subset, subset_name, wanted_subsets
from cggm_med.results.aggregate import MEAN, mean, median, sd
from cggm_med.results.rank_correlation import LEVEL, rank_correlation
from cggm_med.results.results import Record
from cggm_med.results.tables import Table, print_table, rounded
from cggm_med.runs.expectations import Expectations, RegionExpectation, SubsetExpectation
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.loaded_run import LoadedRun, Say, load_run
from cggm_med.runs.progress import speaker
from cggm_med.task.base import Task
from cggm_med.task.subset_agreement import agreement, proper_subsets

SPLIT = "validation"  # never the test cases, which are to say what all of this is worth
# What else is set might change what is predicted, and predict would not follow.
MAY_BE_SET = {"data": ("path", "cache", "workers", "accept"), "task": ("labels",), "train": ("device",)}
Counts = dict[tuple[Subset, str], NDArray[np.int64]]


def calibrate_run(folder: Path, overrides: Tree, console: Console, *, wanted: str = "all") -> Expectations:
    """Measure what is to be expected of a run's masks, and store it in the run's folder.

    Args:
        folder: the run's folder.
        overrides: ``train.device``, ``data.path`` where the run's data have moved, and the like: ``MAY_BE_SET``.
        console: for progress and tables.
        wanted: see ``wanted_subsets``.

    Raises:
        CheckpointError: if the folder is not a run or its weights do not fit.
        ConfigError: if the run does not segment, too many subsets are wanted, or another setting is overridden.
        DataError: if the run has no validation cases, or they are no longer what they were.
        UnknownName: for a modality that the run does not have.
    """
    others = [
        f"{part}.{key}" for part, keys in overrides.items() for key in keys if key not in MAY_BE_SET.get(part, ())
    ]
    if others:
        may = ", ".join(f"{part}.{key}" for part, keys in MAY_BE_SET.items() for key in keys)
        raise ConfigError(f"{', '.join(others)}: masks are measured as predict makes them; only {may} may be set")
    with distributed.processes(select_device(RunFolder(folder).device_setting(overrides))):
        say = speaker(console)
        if not RunFolder(folder).read_splits().validation:
            raise DataError(f"{folder} has no validation cases, and nothing else is measured on; train with some")
        run = load_run(folder, overrides, say, split=SPLIT, check=lambda task: _require_masks(task, folder, wanted))
        _require_unchanged(run)
        subsets = wanted_subsets(wanted, run.task.modalities)
        say(f"{len(subsets)} subsets of {len(run.task.modalities)} modalities, {len(run.cases)} {SPLIT} cases")
        found = measure(run, subsets, say)
        if distributed.rank() == 0:
            found.write(run.run.folder)
            for table in expectation_tables(found, run.volumes.targets):
                print_table(table, console)
            console.print(f"written: {run.run.folder.expectations}, which predict reads")
    return found


def with_parts(subsets: Sequence[Subset]) -> tuple[Subset, ...]:
    """The subsets and all of their parts, large ones first."""
    every = dict.fromkeys(part for subset in subsets for part in (subset, *proper_subsets(subset)))
    return tuple(sorted(every, key=len, reverse=True))


def measure(run: LoadedRun, subsets: Sequence[Subset], say: Say) -> Expectations:
    """What is to be expected from each subset, from those of the run's cases that have all of it.

    Args:
        run: with the cases to measure on, which the processes share.
        subsets: of its modalities.
        say: receives lines of progress.
    """
    run.model.eval()
    counts: Counts = {
        (subset, region): np.zeros((2, len(LOG_ODDS)), np.int64) for subset in subsets for region in run.volumes.targets
    }
    rows: dict[str, list[Record]] = {}
    for number, case in enumerate(run.share, start=1):
        rows[case] = _measure_case(run, case, subsets, counts)
        say(f"case {number} of {len(run.share)}: {case}")
    total = distributed.sum_over_processes(torch.from_numpy(np.stack([*counts.values()])).to(run.device)).cpu().numpy()
    voxels = {key: RegionPredictions(of_key) for key, of_key in zip(counts, total, strict=True)}
    every = [row for of_case in run.gathered(rows) for row in of_case]
    patients = [run.run.groups.get(case, case) for case in run.cases]
    patient_of = dict(zip(run.cases, patients, strict=True))
    found = {}
    for subset in subsets:
        mine = [row for row in every if row["subset"] == subset_name(subset)]
        if not mine:
            continue
        regions = {
            region: _expectation([r for r in mine if r["region"] == region], patient_of, voxels[subset, region])
            for region in run.volumes.targets
        }
        of_mean = _expectation([r for r in mine if r["region"] == MEAN], patient_of, None)
        found[subset_name(subset)] = SubsetExpectation(len({r["case"] for r in mine}), regions, of_mean)
    return Expectations(run.run.digest, run.run.postprocessing, SPLIT, len(run.cases), found, every)


def _measure_case(run: LoadedRun, case: str, subsets: Sequence[Subset], counts: Counts) -> list[Record]:
    """Dice and quality by subset and region of a case, whose voxels are added to ``counts``."""
    volumes, prepared = run.volumes, run.volumes.cases[case]
    has = [subset for subset in subsets if set(subset) <= set(prepared.modalities)]
    truth, drawn_on = prepared.native_target(), prepared.label_grid
    masks: dict[Subset, NDArray[np.bool_]] = {}
    scores: dict[Subset, dict[str, float]] = {}
    for subset, segmented in volumes.segment_subsets(
        run.model, prepared.scan(), with_parts(has), run.device, run.autocast
    ):
        masks[subset] = segmented.regions(volumes.convention)
        if subset not in has:
            continue
        for (_, region), found in counted_voxels(segmented, prepared, truth, volumes.targets, (NEAR,)).items():
            counts[subset, region] += found.counts
        on_label = masks[subset] if drawn_on is None else segmented.on(drawn_on).regions(volumes.convention)
        spacing = (drawn_on or prepared.grid).spacing
        of_regions = volumes.score(prepared.source, prepared.scored(on_label), truth, spacing, full=False)
        scores[subset] = {row["region"]: row["dice"] for row in of_regions}
    rows: list[Record] = []
    for subset in has:
        agreed = agreement(masks[subset], (masks[part] for part in proper_subsets(subset)))
        quality = None if agreed is None else dict(zip(volumes.targets, agreed, strict=True))
        if len(scores[subset]) == len(volumes.targets):
            scores[subset][MEAN] = statistics.fmean(scores[subset].values())
        for region, dice in scores[subset].items():
            of_region = None if quality is None else quality.get(region, statistics.fmean(quality.values()))
            name = subset_name(subset)
            rows.append({"case": case, "subset": name, "region": region, "dice": dice, "quality": of_region})
    return rows


def _expectation(
    rows: Sequence[Record], patient_of: Mapping[str, str], voxels: RegionPredictions | None
) -> RegionExpectation:
    """What rows of one subset and region say, and their voxels; there are none of a mean."""
    judged = [row for row in rows if row["quality"] is not None]
    before = None if voxels is None else voxels.scores()
    temperature = after = None
    if voxels is not None and before is not None:
        temperature = fit_temperature(voxels.slope)
        after = voxels.scores(temperature)
    return RegionExpectation(
        cases=len(rows),
        dice_mean=mean([row["dice"] for row in rows]),
        dice_sd=sd([row["dice"] for row in rows]),
        temperature=temperature,
        ece_before=None if before is None else before.ece,
        ece_after=None if after is None else after.ece,
        rank_correlation=rank_correlation(
            [row["quality"] for row in judged],
            [row["dice"] for row in judged],
            [patient_of[row["case"]] for row in judged],
        ),
    )


def expectation_tables(found: Expectations, regions: Sequence[str]) -> tuple[Table, ...]:
    """What was measured, a row for each subset."""
    of = f"{found.cases} {found.split} cases"
    dice, temperatures, quality = [], [], []
    for name, subset in found.subsets.items():
        each = [*(subset.regions[region] for region in regions), subset.mean]
        dice.append((name, str(subset.cases), *(rounded(one.dice_mean) for one in each)))
        temperatures.append((name, *(_temperature_cell(one) for one in each[:-1])))
        seen = [
            r["quality"] for r in found.rows if (r["subset"], r["region"]) == (name, MEAN) and r["quality"] is not None
        ]
        if seen:
            spread = f"{rounded(min(seen))}, {rounded(median(seen))}"
            quality.append((name, str(subset.cases), spread, *(one.rank_correlation.brief for one in each)))
    tables = [
        Table(f"Dice from exactly these modalities, {of}", ("given", "cases", *regions, MEAN), tuple(dice)),
        Table(
            f"temperature, ECE within {REACH_MM:g} mm of the region without -> with it, on the same cases",
            ("given", *regions),
            tuple(temperatures),
        ),
    ]
    if quality:
        title = f"predicted quality and its rank correlation with Dice ({LEVEL:.0%} interval), {of}"
        tables.append(Table(title, ("given", "cases", "lowest, median", *regions, MEAN), tuple(quality)))
    return tuple(tables)


def _temperature_cell(of: RegionExpectation) -> str:
    if of.temperature is None:
        return "-"
    return f"{of.temperature:.3f} ({rounded(of.ece_before)} -> {rounded(of.ece_after)})"


def _require_masks(task: Task, folder: Path, wanted: str) -> None:
    if task.volumes() is None:
        raise ConfigError(
            f"{folder} is a run of task '{task.config.task.name}', which does not segment; calibrate measures masks, "
            "'cggm-med evaluate --calibration' the probabilities of classes"
        )
    if (count := len(with_parts(wanted_subsets(wanted, task.modalities)))) > MAX_SHOWN:
        raise ConfigError(
            f"{count} subsets, with their parts, are too many to hold at once (at most {MAX_SHOWN}, all of six "
            "modalities); name some with --subsets"
        )


def _require_unchanged(run: LoadedRun) -> None:
    """Refuse cases whose images are not those that the run validated by, which it may have been trained on."""
    changed = []
    for case, files in run.task.contents().items():
        known: Mapping[str, Any] = run.run.contents.get(case, {})
        if any(known.get(modality, digest) != digest for modality, digest in files.items() if modality != "prepared"):
            changed.append(case)
    if changed:
        raise DataError(
            f"{len(changed)} of {len(run.cases)} validation cases have other images than when the run was trained "
            f"({first_of(changed)}); put the run's own data back, or name them with --set data.path=PATH"
        )
