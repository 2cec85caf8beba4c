"""How well a finished run segments worse scans: Dice against the severity of artefacts, modality by modality."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from cggm_med.data.volumes.artefacts import ARTEFACTS, SEVERITIES, corrupt
from cggm_med.data.volumes.checks import Inspection, inspect
from cggm_med.data.volumes.transforms import to_network
from cggm_med.errors import ConfigError, UnknownName
from cggm_med.evaluation.ask import Answer, Question
from cggm_med.evaluation.robustness.figure import robustness_figure
from cggm_med.metrics.volumes import dice
from cggm_med.randomness import Stream, random_seed
from cggm_med.results.aggregate import aggregate, with_mean
from cggm_med.results.results import Record, Report, Scores
from cggm_med.results.tables import Table
from cggm_med.runs.finished import LoadedRun, Say
from cggm_med.task.base import Task
from cggm_med.task.capabilities import Volumes

CLEAN, MISSING = "clean", "missing"


@dataclass(frozen=True)
class Condition:
    """In what state the scans are.

    Attributes:
        artefact: ``clean``, ``missing`` or the name of an artefact.
        modalities: those that it strikes; none if clean.
        severity: 0 where there is none.
    """

    artefact: str
    modalities: tuple[str, ...] = ()
    severity: int = 0

    @property
    def amount(self) -> float:
        """How much there is of the artefact, in its own unit."""
        return ARTEFACTS[self.artefact].amount(self.severity) if self.severity else 0.0

    @property
    def record(self) -> Record:
        """As plain values."""
        names = "+".join(self.modalities)
        return {"artefact": self.artefact, "modalities": names, "severity": self.severity, "amount": self.amount}


def conditions(artefacts: str, severities: str, modalities: Sequence[str]) -> tuple[Condition, ...]:
    """Everything that the scans are put through, the clean scans first.

    Args:
        artefacts: by name, and ``missing:MODALITY``, separated by commas. Each artefact strikes every modality by
            itself, then all of them at once. Modalities that are missing together are joined by ``+``.
        severities: such as ``3``, ``1,3`` or ``1..5``.
        modalities: of the run.

    Raises:
        UnknownName: for an artefact, severity or modality that does not exist.
        ConfigError: if nothing is left to see.

    Example:
        >>> [c.record["modalities"] for c in conditions("noise,missing:t1", "2", ["flair", "t1"])]
        ['', 'flair', 't1', 'flair+t1', 't1']
    """
    levels = _severities(severities)
    struck = dict.fromkeys([*((m,) for m in modalities), tuple(modalities)])
    found = [Condition(CLEAN)]
    for word in artefacts.split(","):
        name, colon, absent = word.strip().partition(":")
        if name == MISSING:
            found.append(Condition(MISSING, _absent(absent, modalities)))
        elif colon or name not in ARTEFACTS:
            raise UnknownName("artefact", word.strip(), [*ARTEFACTS, f"{MISSING}:MODALITY"])
        else:
            found += [Condition(name, which, level) for which in struck for level in levels]
    return tuple(dict.fromkeys(found))


class RobustnessQuestion(Question):
    """How well worse scans are segmented, drawn in ``robustness.png``; ``train.seed`` decides the artefacts' geometry.

    Args:
        artefacts: see ``conditions``.
        severities: see ``conditions``.
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
        self.conditions = conditions(self.artefacts, self.severities, task.modalities)

    def measure(self, x: LoadedRun, say: Say) -> Answer:
        """Dice in every condition."""
        volumes = x.volumes
        say(
            f"{len(self.conditions)} conditions x {len(x.cases)} cases = {len(self.conditions) * len(x.cases)} "
            "predictions"
        )
        self.modalities = x.task.modalities
        rows = measure(x, self.conditions, say)
        return Answer(summarise(rows, self.conditions, self.modalities), _rules(volumes, self.conditions))

    def draw(self, folder: Path, report: Report) -> None:
        """Dice against severity."""
        robustness_figure(folder / "robustness.png", report.title, report.scores.summary, self.modalities)


def measure(x: LoadedRun, todo: Sequence[Condition], say: Say = print) -> list[dict[str, Any]]:
    """Dice of each region of each case in each condition, a row each; the processes share the cases.

    Args:
        x: the run, whose seed decides all artefacts.
        todo: the conditions.
        say: told in one line whenever a case is done with an artefact.

    Returns:
        The rows of all processes, in the order of the run's cases and ``todo``, on each of them.
    """
    volumes, mine = x.volumes, x.share
    x.model.eval()
    found: dict[str, list[dict[str, Any]]] = {}
    started, done = time.monotonic(), 0
    for number, id in enumerate(mine, start=1):
        case = volumes.cases[id]
        scan = inspect(replace(case.source, label=None), None)
        truth = case.native_target(volumes.convention)
        found[id] = rows = []
        for condition, after in zip(todo, [*todo[1:], None], strict=True):
            predicted = _segment(x, id, scan, condition)
            for name, p, t in zip(volumes.targets, predicted, truth, strict=True):
                value = dice(torch.from_numpy(p), torch.from_numpy(t))
                rows.append({"case": id, **condition.record, "region": name, "dice": value})
            done += 1
            if after is None or after.artefact != condition.artefact:
                seconds = (time.monotonic() - started) / done * (len(mine) * len(todo) - done)
                left = datetime.timedelta(seconds=round(seconds))
                say(f"case {number} of {len(mine)}, {id}: {condition.artefact} done, about {left} left")
    return [row for rows in x.gathered(found) for row in rows]


def summarise(rows: Sequence[Record], todo: Sequence[Condition], modalities: Sequence[str]) -> Scores:
    """What all cases say together, as numbers and as a table for each artefact.

    Args:
        rows: what ``measure`` returned.
        todo: the conditions.
        modalities: of the run.
    """
    regions = list(dict.fromkeys(row["region"] for row in rows))
    names = list(todo[0].record)
    summary = aggregate(with_mean(rows, ["case", *names], "region", ["dice"]), [*names, "region"], "dice")
    clean = {row["region"]: row["dice_mean"] for row in summary if row["artefact"] == CLEAN}
    summary = [{**row, "dice_drop": clean[row["region"]] - row["dice_mean"]} for row in summary]
    means = {(_key(row), row["region"]): row["dice_mean"] for row in summary}

    def cell(condition: Condition, region: str) -> str:
        return f"{means[_key(condition.record), region]:.3f}"

    def label(struck: tuple[str, ...]) -> str:
        return "all at once" if len(struck) > 1 and struck == tuple(modalities) else "+".join(struck)

    tables = []
    for artefact in dict.fromkeys(c.artefact for c in todo if c.severity):
        mine = [c for c in todo if c.artefact == artefact]
        levels = sorted({c.severity for c in mine})
        struck = dict.fromkeys(c.modalities for c in mine)
        for region in ("mean", *regions):
            lines = tuple(
                (label(s), cell(todo[0], region), *(cell(Condition(artefact, s, level), region) for level in levels))
                for s in struck
            )
            title = f"{artefact}: Dice by severity, {'mean of ' + ', '.join(regions) if region == 'mean' else region}"
            header = ("modality", "clean", *map(str, levels))
            tables.append(Table(title, header, lines, detail=region != "mean"))
    if absent := [c for c in todo if c.artefact == MISSING]:
        lines = tuple(
            ("+".join(c.modalities) or "none", *(cell(c, region) for region in (*regions, "mean")))
            for c in (todo[0], *absent)
        )
        tables.append(Table("missing modalities: Dice", ("missing", *regions, "mean"), lines))
    if not tables:
        tables.append(Table("", ("region", "Dice"), tuple((r, cell(todo[0], r)) for r in (*regions, "mean"))))
    headline = {f"Dice {region}": value for region, value in clean.items()}
    return Scores(headline=headline, summary=tuple(summary), cases=tuple(rows), heads=(), tables=tuple(tables))


def _segment(x: LoadedRun, case: str, scan: Inspection, condition: Condition) -> NDArray[np.bool_]:
    """Masks ``(region, x, y, z)`` of one case on its own grid, all the way from what its files hold."""
    volumes = x.volumes
    given = volumes.modalities
    if condition.artefact == MISSING:
        given = tuple(m for m in given if m not in condition.modalities)

    def changed(modality: str) -> NDArray[Any]:
        volume, spacing = scan.volumes[modality], voxel_sizes(scan.affines[modality])
        if not condition.severity or modality not in condition.modalities:
            return volume
        # Neither the severity nor the other modalities take part, so that a cell has one number in any table.
        key = random_seed(x.config.train.seed, Stream.ARTEFACT, case, condition.artefact, modality)
        return corrupt(volume, spacing, condition.artefact, condition.severity, key)

    moved, grid, _ = to_network([changed(m) for m in given], scan.affines[given[0]], volumes.spacing)
    (found,) = volumes.segment(x.model, moved["image"].as_tensor().to(x.device), grid, given, x.autocast)
    return found.masks


def _key(row: Record) -> tuple[Any, ...]:
    """What tells conditions apart."""
    return row["artefact"], row["modalities"], row["severity"]


def _rules(volumes: Volumes, todo: Sequence[Condition]) -> dict[str, str]:
    rules = volumes.dice_rules()
    rules["clean"] = "the scans as they are, through the same steps; severity 0 of every artefact"
    used = dict.fromkeys(c.artefact for c in todo if c.severity)
    if used:
        rules["artefacts"] = (
            "applied to each image on its own grid before preprocessing, to one modality at a time or to all at once; "
            "only voxels that differ from the constant background are changed, as after skull stripping; the signal is "
            "what lies above the image's darkest voxel; values that fall below it are kept"
        )
        rules["randomness"] = (
            "each artefact of each modality of each case has one geometry, which follows from the seed and these names "
            "alone; the severity decides the amount"
        )
    for name in used:
        artefact = ARTEFACTS[name]
        amounts = ", ".join(f"{artefact.amount(s):g}" for s in SEVERITIES)
        rules[name] = f"{artefact.description}. Severity 1 to {len(SEVERITIES)}: {amounts} ({artefact.unit})"
    if any(c.artefact == MISSING for c in todo):
        rules["missing"] = "these modalities are left out; the fusion is of those that are there"
    return rules


def _severities(text: str) -> list[int]:
    known = [str(s) for s in SEVERITIES]
    found: set[int] = set()
    for word in text.split(","):
        first, dots, last = (part.strip() for part in word.partition(".."))
        for end in (first, last) if dots else (first,):
            if end not in known:
                raise UnknownName("severity", end, known)
        found.update(range(int(first), int(last or first) + 1))
    if not found:
        raise ConfigError(f"severity is {text}, expected such as 3, 1,3 or 1..5")
    return sorted(found)


def _absent(text: str, modalities: Sequence[str]) -> tuple[str, ...]:
    words = [word.strip() for word in text.split("+")]
    for word in words:
        if word not in modalities:
            raise UnknownName("modality in this run", word, modalities)
    if not set(modalities) - set(words):
        raise ConfigError(
            f"{MISSING}:{text} leaves no modality to see, expected at least one of {', '.join(modalities)}"
        )
    return tuple(m for m in modalities if m in words)
