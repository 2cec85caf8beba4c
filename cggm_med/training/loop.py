"""The one training loop: a step that reads like the paper's algorithm box, and the walk over all steps."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from cggm_med import distributed
from cggm_med.config import OptimConfig, RunConfig, TrainConfig, Tree, require, to_tree
from cggm_med.device import precision
from cggm_med.errors import NonFiniteLoss
from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.subsets import modality_dropout, subset_view
from cggm_med.randomness import Step, random_seed
from cggm_med.strategies.base import BalancingStrategy, Criterion, fused_loss
from cggm_med.task.base import CaseResult, Task
from cggm_med.training import checkpoint as checkpoints
from cggm_med.training.monitor import Comparison, Monitor, clip_gradients, step_if_finite
from cggm_med.types import Batch

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Which cases of an evaluation are drawn, and where.

    Attributes:
        folder: for the pictures, named by case.
        cases: ids that are drawn in any case.
        worst: how many of the cases with the lowest scores are drawn as well; so many are held in memory.
    """

    folder: Path
    cases: tuple[str, ...]
    worst: int = 0

    def path(self, case: str) -> Path:
        """Of a case's picture."""
        return self.folder / f"{case}.png"


def train_step(
    model: MultimodalModel,
    strategy: BalancingStrategy,
    optimizer: Optimizer,
    criterion: Criterion,
    batch: Batch,
    step: Step,
    *,
    clip_norm: float,
    settings: TrainConfig = TrainConfig(),  # noqa: B008 - frozen
    autocast: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
    monitor: Monitor | None = None,
    comparison: Comparison | None = None,
) -> dict[str, Tensor]:
    """One optimizer step; returns the named losses, still on the device.

    Args:
        model: in training mode.
        strategy: set up.
        optimizer: from ``make_optimizer``; it has the same learning rates afterwards.
        criterion: function of logits and target.
        batch: this process's share of the samples, on any device.
        step: where training stands; decides all random draws but those inside the model.
        clip_norm: largest norm of the model's gradient.
        settings: of these, ``accumulate``, the modality dropout and the subset view.
        autocast: context for the network's computations.
        monitor: counts clipped and skipped steps.
        comparison: takes in how the modalities compare.
    """
    device = next(model.parameters()).device
    optimizer.zero_grad()
    parts = settings.accumulate
    total_losses: dict[str, Tensor] = {}
    for i, whole_part in enumerate(batch.split(parts)):
        part, now = whole_part.to(device), dataclasses.replace(step, part=i, parts=parts)
        with autocast():
            features = model.encode(part.inputs)
            seen = modality_dropout(strategy.adapt_features(features, now), settings, now)
            subset = subset_view(features, settings, now, strategy.guide(features))
            fused, *second = model.predict([seen] if subset is None else [seen, subset])
            outputs = dataclasses.replace(fused, features=features, unimodal=strategy.unimodal(features))
            strategy.watch(model, outputs, part.target, now)
            losses = strategy.losses(model, outputs, part.target, criterion, now)
            if second:
                losses["subset"] = settings.subset_view * fused_loss(second[0], part.target, criterion)
            if comparison is not None:
                comparison.add(model, strategy, outputs, part.target, criterion, now)
        if parts > 1:
            losses = {name: loss / parts for name, loss in losses.items()}
        strategy.backward(losses, model)
        for name, loss in losses.items():
            total_losses[name] = total_losses[name] + loss.detach() if name in total_losses else loss.detach()
    strategy.combine(model)
    norms, norm = clip_gradients(model, clip_norm)
    rates = [group["lr"] for group in optimizer.param_groups]
    strategy.modulate(model, optimizer, step)
    step_if_finite(optimizer, norm)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    if monitor is not None:
        monitor.record(norms, norm, clip_norm)
    return total_losses


def train(
    task: Task,
    model: MultimodalModel,
    strategy: BalancingStrategy,
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    log: Callable[[Record], None],
    log_gradients: Callable[[int, Mapping[str, Sequence[Tensor]]], None] | None = None,
    resume: checkpoints.Checkpoint | None = None,
) -> None:
    """Train to the last step, writing ``last.pt`` and ``best.pt`` to ``folder``.

    Killed at any moment and resumed from ``last.pt``, a run on the CPU ends with the same bits.

    Args:
        task: prepared.
        model: on ``device``.
        strategy: set up, on ``device``.
        config: of the run.
        folder: for checkpoints.
        device: where to compute.
        log: receives a record every ``train.log_every`` steps and at each validation.
        log_gradients: receives, as often, the number of steps and by modality the last layers' gradients, see
            ``GradientLog``.
        resume: where to continue.

    Raises:
        NonFiniteLoss: names the step, its cases and the last good checkpoint.
    """
    settings, tree = config.train, to_tree(config)
    data: Tree = dict(task.contents())
    criterion = task.criterion().to(device)
    optimizer = make_optimizer(model, strategy, config.optim, device)
    autocast = precision(settings.precision, device)
    monitor = Monitor(len(model.modalities)).to(device)
    first_step, best = 0, None
    if resume is not None:
        checkpoints.require_same_run(resume, tree, data, folder / "last.pt")
        checkpoints.restore(resume, model, strategy, folder / "last.pt", optimizer, monitor)
        first_step, best = resume.step, resume.best
    if first_step >= settings.steps:
        return

    def save(name: str, done: int) -> None:
        if distributed.rank() == 0:
            states = [module.state_dict() for module in (model, strategy, optimizer, monitor)]
            checkpoints.save(folder / name, checkpoints.Checkpoint(done, tree, data, best, *states))

    pending: list[tuple[int, Batch, Tensor]] = []
    skipped = int(monitor.skipped_steps.item())
    started = time.monotonic()
    for step, batch in enumerate(task.batches(first_step, device.type == "cuda"), start=first_step):
        # Whatever a step draws at random depends on the seed and the step alone, so there is no state to resume.
        torch.manual_seed(random_seed(settings.seed, 3, step, distributed.rank()))
        lr = learning_rate(config.optim, step, settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = lr
        done = step + 1
        to_log = done % settings.log_every == 0
        comparison = Comparison(settings.log_shapley) if to_log else None
        model.train()
        strategy.train()
        losses = train_step(
            model,
            strategy,
            optimizer,
            criterion,
            batch,
            Step(step, settings.steps, settings.seed),
            clip_norm=config.optim.clip_norm,
            settings=settings,
            autocast=autocast,
            monitor=monitor,
            comparison=comparison,
        )
        epoch_ends = done % settings.steps_per_epoch == 0
        epoch = step // settings.steps_per_epoch
        pending.append((step, batch, torch.stack(list(losses.values())).sum()))
        to_validate = epoch_ends and ((epoch + 1) % settings.validate_every == 0 or done == settings.steps)
        to_save = done % settings.checkpoint_every == 0 or done == settings.steps
        # On a GPU, looking at a loss waits for it; so losses are looked at together, before anything is written.
        if device.type == "cpu" or to_log or to_validate or to_save:
            total = _require_finite(pending, folder / "last.pt")
            pending.clear()
        if comparison is not None:
            skipped, before = int(monitor.skipped_steps.item()), skipped
            if skipped - before >= max(2, settings.log_every):
                raise NonFiniteLoss(
                    f"the gradient was not finite in any of the {skipped - before} steps up to {done}, so nothing was "
                    "learned; lower optim.lr, or train with train.precision=float32"
                )
        if comparison is not None:
            seconds = time.monotonic() - started
            log(
                {
                    "kind": "train",
                    "step": done,
                    "epoch": epoch,
                    "loss": total,
                    "losses": {name: value.item() for name, value in losses.items()},
                    "learning_rate": lr,
                    **_readable(
                        {**monitor.values(), **comparison.values(), **strategy.diagnostics()}, model.modalities
                    ),
                    "seconds_per_step": seconds / (done - first_step),
                }
            )
            if log_gradients is not None:
                log_gradients(done, comparison.gradients)
        if to_validate and task.splits.validation:
            results = evaluate(task, model, strategy, task.splits.validation, config, device=device, full=False)
            headline = dict(task.summarise(results).headline)
            score = headline[task.chosen_by]
            assert score is not None  # noqa: S101 - a task is chosen by a score that is always defined
            if best is None or (score < best["score"] if task.lower_is_better else score > best["score"]):
                best = {"score": score, "epoch": float(epoch), "step": float(done)}
                save("best.pt", done)
            log({"kind": "validation", "step": done, "epoch": epoch, "scores": headline})
        if to_save:
            save("last.pt", done)
    distributed.barrier()


def evaluate(
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
    """Score cases, shared among the processes; every process gets all results, in the order of ``cases``.

    Args:
        task: prepared.
        model: the network.
        strategy: has the classifier heads, if any.
        cases: ids.
        config: of the run.
        device: where to compute.
        full: see ``Task.evaluate``; also scores the classifier heads.
        draw: which cases to draw, and where.
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
        # Without its volumes, of which there may not be room for all.
        results.append(dataclasses.replace(result, draw=None))
    if draw is not None:
        _draw_worst(worst, draw, device)
    return _gather(results, cases, device)


def _badness(result: CaseResult) -> tuple[float, str]:
    assert result.score is not None  # noqa: S101 - the others are not compared
    return result.score, result.case


def _draw_worst(mine: list[CaseResult], draw: Drawings, device: torch.device) -> None:
    """Draw the worst cases of all processes that are not drawn yet, each where it was predicted."""
    everyone = [found for part in distributed.gather_json([_badness(r) for r in mine], device) for found in part]
    worst = {case for _, case in sorted(map(tuple, everyone))[: draw.worst]} - set(draw.cases)
    for result in mine:
        if result.case in worst and result.draw is not None:
            result.draw(draw.path(result.case))


def make_optimizer(
    model: MultimodalModel, strategy: BalancingStrategy, config: OptimConfig, device: torch.device
) -> Optimizer:
    """An optimizer with one parameter group per modality, one for what they share and one for the classifier heads.

    Raises:
        ValueError: if a modality matches no parameter, or two modalities claim the same one.
    """
    owner: dict[int, str] = {}
    groups: list[dict[str, Any]] = []
    for modality in model.modalities:
        parameters = model.modality_parameters(modality)
        for parameter in parameters:
            other = owner.setdefault(id(parameter), modality)
            if other != modality:
                raise ValueError(f"modalities '{other}' and '{modality}' share a parameter; neither can be balanced")
        groups.append({"params": parameters, "modality": modality})
    shared = [p for p in model.parameters() if id(p) not in owner]
    groups.append({"params": shared, "modality": None})
    if own := list(strategy.parameters()):
        groups.append({"params": own, "modality": None})
    # Fused on CUDA, where it takes learning rates and skips steps without asking the CPU. Never on the CPU: there,
    # torch 2.13 scrambles updates when a gradient's memory layout differs from its parameter's.
    if config.name == "sgd":
        nesterov = config.momentum > 0
        return SGD(
            groups,
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=nesterov,
            fused=device.type == "cuda",
        )
    kind = Adam if config.name == "adam" else AdamW
    return kind(groups, config.lr, weight_decay=config.weight_decay, fused=device.type == "cuda")


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up to ``lr``, then a cosine to ``lr * final_lr_fraction``; a function of the step alone.

    Example:
        >>> config = OptimConfig(lr=1.0, warmup_fraction=0.1, final_lr_fraction=0.0)
        >>> [round(learning_rate(config, step, 100), 3) for step in (0, 9, 10, 55, 100)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    low = config.final_lr_fraction
    return config.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def select_device(name: str) -> torch.device:
    """The device to train on; ``auto`` is this process's GPU if there is one.

    Raises:
        ConfigError: if CUDA is asked for and absent, or the name is no device.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    require(re.fullmatch(r"cpu|cuda(:\d+)?", name) is not None, "train.device", name, "auto, cpu, cuda or cuda:N")
    if name != "cpu":
        if name == "cuda":
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        count = torch.cuda.device_count()
        require(int(name.split(":")[1]) < count, "train.device", name, f"cpu or auto: torch sees {count} CUDA devices")
        torch.cuda.set_device(name)
        # Patches have one size, so the fastest convolution is worth searching for once.
        torch.backends.cudnn.benchmark = True
    return torch.device(name)


def build(task: Task, strategy: BalancingStrategy, config: RunConfig, device: torch.device) -> MultimodalModel:
    """The seeded model and its strategy, both on ``device``.

    Classifier heads draw their weights from a stream of their own, so that every strategy starts with the same model.
    """
    torch.manual_seed(config.train.seed)
    model = task.model().to(device)
    torch.manual_seed(random_seed(config.train.seed, 4))
    strategy.setup(model, lambda: task.unimodal_heads(model), task.score_sums, config.train.steps_per_epoch)
    strategy.to(device)
    return model


def parameter_count(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _require_finite(pending: list[tuple[int, Batch, Tensor]], last: Path) -> float:
    """The newest loss, if all pending ones are finite."""
    values = torch.stack([loss for *_, loss in pending]).tolist()
    for (step, batch, _), value in zip(pending, values, strict=True):
        if not math.isfinite(value):
            saved = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
            raise NonFiniteLoss(
                f"loss is {value} at step {step + 1} (cases {', '.join(batch.ids)}); {saved}. "
                "Look at these cases, or lower optim.lr"
            )
    return float(values[-1])


def _readable(diagnostics: Mapping[str, Tensor], modalities: tuple[str, ...]) -> Record:
    """Diagnostics as numbers: a vector by modality, a scalar as it is; None for what is not defined."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None  # JSON has no NaN

    return {
        name: dict(zip(modalities, map(number, value.tolist()), strict=True)) if value.ndim else number(value.item())
        for name, value in diagnostics.items()
    }


def _gather(results: list[CaseResult], cases: tuple[str, ...], device: torch.device) -> list[CaseResult]:
    if not distributed.active():
        return results
    mine = {result.case: dict(result.findings) for result in results}
    findings = {case: found for part in distributed.gather_json(mine, device) for case, found in part.items()}
    return [CaseResult(case, findings[case]) for case in cases]
