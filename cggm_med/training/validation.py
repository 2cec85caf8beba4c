"""Evaluate cases during and after training: shared among the processes, with pictures of the first and the worst."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cggm_med import distributed
from cggm_med.config import RunConfig
from cggm_med.data.splits import Splits
from cggm_med.device import precision
from cggm_med.errors import ConfigError
from cggm_med.models.base import MultimodalModel
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import CaseResult, Task
from cggm_med.training.mean_losses import require_validation_cases


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


@dataclasses.dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        scores: headline metrics of the fused prediction, by name.
        loss: mean over cases; None where the task does not say it.
        modality_scores: the first of these metrics of each modality's own head; empty where heads were not scored.
    """

    scores: Mapping[str, float | None]
    loss: float | None
    modality_scores: Mapping[str, float | None]

    def record(self) -> dict[str, Any]:
        """What to log."""
        loss = {} if self.loss is None else {"loss": self.loss}
        heads = {"modality_scores": dict(self.modality_scores)} if self.modality_scores else {}
        return {"scores": dict(self.scores), **loss, **heads}


def evaluate_cases(
    task: Task,
    model: MultimodalModel,
    strategy: BalancingStrategy,
    cases: tuple[str, ...],
    config: RunConfig,
    *,
    device: torch.device,
    full: bool,
    heads: bool = True,
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
        full: see ``Task.evaluate``.
        heads: also evaluate the classifier heads, if there are any.
        draw: the cases to draw, and where.
    """
    model.eval()
    strategy.eval()
    mine = cases[distributed.rank() :: distributed.world_size()]
    autocast = precision(config.train.precision, device)
    results: list[CaseResult] = []
    worst: list[CaseResult] = []
    for result in task.evaluate(
        model, strategy.heads if heads else None, mine, device=device, autocast=autocast, full=full
    ):
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
) -> Validation:
    """Score the validation cases; with the heads' scores as ``train.validate_modalities`` says."""
    wanted = config.train.validate_modalities
    heads = task.cheap_heads if wanted is None else wanted
    results = evaluate_cases(
        task, model, strategy, task.splits.validation, config, device=device, full=False, heads=heads
    )
    scores = task.summarise(results)
    losses = [result.loss for result in results if result.loss is not None]
    return Validation(
        dict(scores.headline),
        statistics.fmean(losses) if losses else None,
        task.modality_scores(scores) if heads and strategy.heads is not None else {},
    )


def require_watchable(task: Task, strategy: BalancingStrategy, splits: Splits) -> None:
    """Refuse a strategy, a learning rate or an end that is to go by what no validation says.

    Args:
        task: whose data need not be read.
        strategy: of the run.
        splits: of the run.

    Raises:
        ConfigError: names what is missing and what to set instead.
    """
    optim, stop_after = task.config.optim, task.config.train.stop_after
    if stop_after is not None and not splits.validation:
        raise ConfigError(
            f"train.stop_after is {stop_after}, and no case is held out for validation; hold some "
            "out (data.validation), or train to the last epoch without train.stop_after"
        )
    if strategy.measures_losses:
        require_validation_cases(task.config.strategy.name, splits)
    if optim.schedule != "plateau":
        return
    if not splits.validation:
        raise ConfigError(
            "optim.schedule is plateau, and no case is held out for validation; hold some out (data.validation), or "
            "choose another schedule"
        )
    if optim.plateau_by == "loss" and not task.says_loss:
        raise ConfigError(
            f"optim.plateau_by is loss, which validation of task '{task.config.task.name}' does not compute; set "
            f"optim.plateau_by=score to go by {task.chosen_by}"
        )


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
    mine = {result.case: (dict(result.findings), result.loss) for result in results}
    found: dict[str, Any] = {}
    for part in distributed.gather_json(mine, device):
        found |= part
    return [CaseResult(case, found[case][0], loss=found[case][1]) for case in cases]
