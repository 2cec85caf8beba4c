"""Evaluate cases during and after training: shared among the processes, with pictures of the first and the worst."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from cggm_med import distributed
from cggm_med.config import RunConfig
from cggm_med.device import precision
from cggm_med.models.base import MultimodalModel
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import CaseResult, Task


@dataclasses.dataclass(frozen=True)
class Drawings:
    """The cases of an evaluation to draw, and where.

    Attributes:
        folder: for the pictures, named by case.
        cases: ids that are always drawn.
        worst: number of cases with the lowest scores that are drawn as well; as many are held in memory.
    """

    folder: Path
    cases: tuple[str, ...]
    worst: int = 0

    def path(self, case: str) -> Path:
        """The file of a case's picture."""
        return self.folder / f"{case}.png"


def evaluate_cases(
    task: Task,
    model: MultimodalModel,
    strategy: BalancingStrategy,
    cases: tuple[str, ...],
    config: RunConfig,
    *,
    device: torch.device,
    full: bool,
    draw: Drawings | None = None,
) -> list[CaseResult]:
    """Evaluate cases, shared among the processes; every process gets all results, in the order of ``cases``.

    Args:
        task: prepared.
        model: the network.
        strategy: has the classifier heads, if any.
        cases: ids.
        config: the run's config.
        device: where to compute.
        full: see ``Task.evaluate``; also evaluates the classifier heads.
        draw: the cases to draw, and where.
    """
    model.eval()
    strategy.eval()
    mine = cases[distributed.rank() :: distributed.world_size()]
    heads = strategy.heads if full else None
    autocast = precision(config.train.precision, device)
    results: list[CaseResult] = []
    worst: list[CaseResult] = []
    for result in task.evaluate(model, heads, mine, device=device, autocast=autocast, full=full):
        if draw is not None and result.draw is not None:
            if result.case in draw.cases:
                result.draw(draw.path(result.case))
            if result.score is not None:
                worst = sorted([*worst, result], key=_badness)[: draw.worst]
        # Without its volumes: memory may not hold those of all cases.
        results.append(dataclasses.replace(result, draw=None))
    if draw is not None:
        _draw_worst(worst, draw, device)
    return _gather(results, cases, device)


def validate(
    task: Task, model: MultimodalModel, strategy: BalancingStrategy, config: RunConfig, device: torch.device
) -> dict[str, float | None]:
    """The headline metrics of the validation cases, by name."""
    results = evaluate_cases(task, model, strategy, task.splits.validation, config, device=device, full=False)
    return dict(task.summarise(results).headline)


def _badness(result: CaseResult) -> tuple[float, str]:
    assert result.score is not None  # noqa: S101 - the others are not compared
    return result.score, result.case


def _draw_worst(mine: list[CaseResult], draw: Drawings, device: torch.device) -> None:
    """Draw the worst cases of all processes that are not drawn yet, each in the process that predicted it."""
    scored = [pair for part in distributed.gather_json([_badness(r) for r in mine], device) for pair in part]
    worst = {case for _, case in sorted(map(tuple, scored))[: draw.worst]} - set(draw.cases)
    for result in mine:
        if result.case in worst and result.draw is not None:
            result.draw(draw.path(result.case))


def _gather(results: list[CaseResult], cases: tuple[str, ...], device: torch.device) -> list[CaseResult]:
    if not distributed.active():
        return results
    mine = {result.case: dict(result.findings) for result in results}
    findings: dict[str, Any] = {}
    for part in distributed.gather_json(mine, device):
        findings |= part
    return [CaseResult(case, findings[case]) for case in cases]
