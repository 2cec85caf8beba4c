"""The question how well a run segments worse scans: Dice by artefact, severity and modality."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from cggm_med.data.volumes.artefacts import corrupt
from cggm_med.data.volumes.network_grid import to_network
from cggm_med.data.volumes.prepared import PreparedCase
from cggm_med.data.volumes.resample import OneGrid
from cggm_med.errors import ConfigError, counted
from cggm_med.evaluation.ask import Answer, Question
from cggm_med.evaluation.robustness.conditions import MISSING, Condition, parse_conditions
from cggm_med.evaluation.robustness.figure import robustness_figure
from cggm_med.evaluation.robustness.table import robustness_rules, robustness_scores
from cggm_med.metrics.overlap import dice
from cggm_med.randomness import Stream, random_seed
from cggm_med.results.results import Report
from cggm_med.runs.loaded_run import LoadedRun, Say
from cggm_med.task.base import Task


class RobustnessQuestion(Question):
    """How well worse scans are segmented, drawn in ``robustness.png``; ``train.seed`` decides the artefacts' geometry.

    Args:
        artefacts: see ``parse_conditions``.
        severities: see ``parse_conditions``.
    """

    folder = "robustness"
    written = "results.json, results.csv and robustness.png"

    def __init__(self, artefacts: str, severities: str) -> None:
        self.artefacts, self.severities = artefacts, severities

    def check(self, task: Task, folder: Path) -> None:
        """Refuse runs that do not segment, and artefacts, severities and modalities that do not exist."""
        if task.volumes() is None:
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}', whose data are no scans to corrupt"
            )
        self.conditions = parse_conditions(self.artefacts, self.severities, task.modalities)

    def answer(self, run: LoadedRun, say: Say) -> Answer:
        """Dice in every condition."""
        conditions, cases = len(self.conditions), len(run.cases)
        of, each = counted(conditions, "condition"), counted(cases, "case")
        say(f"{of} x {each} = {counted(conditions * cases, 'prediction')}")
        self.modalities = run.task.modalities
        rows = score_conditions(run, self.conditions, say)
        scores = robustness_scores(rows, self.conditions, self.modalities)
        return Answer(scores, robustness_rules(run.volumes, self.conditions))

    def draw(self, folder: Path, report: Report) -> None:
        """Dice against severity."""
        robustness_figure(folder / "robustness.png", report.title, report.scores.summary, self.modalities)


def score_conditions(run: LoadedRun, conditions: Sequence[Condition], say: Say = print) -> list[dict[str, Any]]:
    """Dice of each region of each case in each condition, one row each; the processes share the cases.

    Args:
        run: the run, whose seed decides all artefacts.
        conditions: what to score.
        say: receives a line whenever a case is done with an artefact.

    Returns:
        The rows of all processes, in the order of the run's cases and ``conditions``, on each of them.
    """
    volumes, mine = run.volumes, run.share
    run.model.eval()
    by_case: dict[str, list[dict[str, Any]]] = {}
    started, done = time.monotonic(), 0
    for number, id in enumerate(mine, start=1):
        case = volumes.cases[id]
        scan = case.scan()
        truth = case.native_target()
        by_case[id] = rows = []
        for condition, after in zip(conditions, [*conditions[1:], None], strict=True):
            predicted = case.scored(_segment(run, case, scan, condition))
            for name, p, t in zip(volumes.targets, predicted, truth, strict=True):
                if name in case.source.not_drawn:
                    continue
                value = dice(torch.from_numpy(p), torch.from_numpy(t))
                rows.append({"case": id, **condition.record, "region": name, "dice": value})
            done += 1
            if after is None or after.artefact != condition.artefact:
                seconds = (time.monotonic() - started) / done * (len(mine) * len(conditions) - done)
                left = datetime.timedelta(seconds=round(seconds))
                say(f"case {number} of {len(mine)}, {id}: {condition.artefact} done, about {left} left")
    return [row for rows in run.gathered(by_case) for row in rows]


def _segment(run: LoadedRun, case: PreparedCase, scan: OneGrid, condition: Condition) -> NDArray[np.bool_]:
    """Masks ``(region, x, y, z)`` of one case on the grid of its label, starting from what its files hold."""
    volumes = run.volumes
    given = tuple(m for m in volumes.modalities if m in scan.volumes)
    if condition.artefact == MISSING:
        given = tuple(m for m in given if m not in condition.modalities)

    if not given:  # what a case without any image shows
        return np.zeros((len(volumes.targets), *next(iter(scan.volumes.values())).shape), bool)

    def changed(modality: str) -> NDArray[Any]:
        volume, spacing = scan.volumes[modality], voxel_sizes(scan.affines[modality])
        if not condition.severity or modality not in condition.modalities:
            return volume
        # Neither the severity nor the other modalities enter the key, so that a cell has the same number in any table.
        key = random_seed(run.config.train.seed, Stream.ARTEFACT, case.id, condition.artefact, modality)
        return corrupt(volume, spacing, condition.artefact, condition.severity, key)

    rescalings = [volumes.rescalings.get(m) for m in given]
    affine = scan.affines[given[0]]
    moved, grid, _ = to_network([changed(m) for m in given], affine, volumes.spacing, rescalings=rescalings)
    (segmented,) = volumes.segment(run.model, moved["image"].as_tensor().to(run.device), grid, given, run.autocast)
    return segmented.on(case.label_grid).regions(volumes.convention)
