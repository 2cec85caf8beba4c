"""The training loop over all steps, with logging, validation and checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cggm_med import distributed
from cggm_med.config import RunConfig, to_tree
from cggm_med.device import number_format, precision
from cggm_med.models.base import MultimodalModel
from cggm_med.optim.exchange import GradientExchange
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.optim.schedule import Plateau, learning_rate, set_learning_rate
from cggm_med.randomness import Step, Stream, random_seed, seed_network
from cggm_med.stop import Stopped, StopRequest
from cggm_med.strategies.base import BalancingStrategy
from cggm_med.task.base import Task
from cggm_med.training import early_stopping
from cggm_med.training.checkpoint import Checkpoint, TrainingState
from cggm_med.training.clock import Clock
from cggm_med.training.cost import StepMemory
from cggm_med.training.finite_check import FiniteCheck
from cggm_med.training.gradient_scale import GradientScale
from cggm_med.training.mean_losses import mean_losses
from cggm_med.training.monitor import ModalityComparison, Monitor, readable
from cggm_med.training.step import train_step
from cggm_med.training.validation import validate
from cggm_med.training.weight_average import WeightAverage
from cggm_med.types import Batch

Record = dict[str, Any]


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
    resume: Checkpoint | None = None,
    memory: StepMemory | None = None,
    parts: int | None = None,
) -> tuple[int, str]:
    """Train to the last step, or until ``train.stop_after`` or ``train.hours`` ends it; write ``last.pt``, ``best.pt``.

    Killed at any moment and resumed from ``last.pt``, a run on the CPU ends with the same bits. Ctrl-C and SIGTERM end
    it after the step that is under way, which is saved first; several processes, at the next step that is logged,
    validated or saved, where they wait for one another in any case.

    Args:
        task: prepared.
        model: on ``device``.
        strategy: set up, on ``device``.
        config: the run's config.
        folder: for checkpoints.
        device: where to compute.
        log: receives a record every ``train.log_every`` steps and at each validation.
        log_gradients: receives at the same steps the number of steps done and the last layers' gradients by modality,
            see ``GradientLog``.
        resume: the checkpoint to continue from.
        memory: watches what some of the steps take.
        parts: in how many each batch is computed; default: ``train.accumulate``.

    Returns:
        The number of steps of the whole run, and why it ended before the last one; empty if it did not.

    Raises:
        NonFiniteLoss: names the step, its cases and the last good checkpoint.
        Stopped: after a signal, with the number of steps that are saved.
    """
    settings = dataclasses.replace(config.train, accumulate=parts or config.train.accumulate)
    criterion = task.criterion().to(device)
    optimizer = make_optimizer(model, strategy, config.optim, device)
    strategy.exchange = GradientExchange(
        [*model.parameters(), *strategy.parameters()],
        overlap=settings.exchange == "buckets",
        sent_as=torch.bfloat16 if settings.exchange_precision == "bfloat16" else None,
    )
    autocast = precision(settings.precision, device)
    scale = GradientScale(number_format(settings.precision, device), model, strategy).to(device)
    monitor = Monitor(len(model.modalities)).to(device)
    by_loss = config.optim.plateau_by == "loss"
    plateau = Plateau(config.optim, lower_is_better=by_loss or task.lower_is_better)
    tree, data = to_tree(config), dict(task.contents())
    average = WeightAverage(settings.ema_decay, model, *([] if strategy.heads is None else [strategy.heads]))
    clock = Clock()
    state = TrainingState(folder, tree, data, model, strategy, optimizer, monitor, plateau, average, clock, scale)
    if resume is not None:
        state.restore(resume)
    first_step = 0 if resume is None else resume.step
    finite = FiniteCheck(monitor, state.last)
    measured = functools.partial(mean_losses, task, model, strategy, criterion, config, device)

    def look(done: int, stop: StopRequest) -> None:
        """Validate, and keep the weights if they are the best so far."""
        with average.applied(), contextlib.nullcontext() if distributed.active() else stop.at_once():
            found = validate(task, model, strategy, config, device)
        score = found.scores[task.chosen_by]
        if (watched := found.loss if by_loss else score) is not None:
            plateau.watch(watched)
        epoch = (done - 1) // settings.steps_per_epoch
        state.save_if_best(score, done, epoch, lower_is_better=task.lower_is_better)
        assert state.best is not None  # noqa: S101 - it was just kept
        best = {"score": state.best["score"], "step": int(state.best["step"])}
        log({"kind": "validation", "step": done, "epoch": epoch, **found.record(), "best": best})
        clock.read(device)

    def ending(done: int) -> str:
        """Why the training ends after this step, before its last."""
        if done < settings.steps and early_stopping.ends(settings, state.best, done):
            return early_stopping.reason(settings, task.chosen_by)
        spent = done < settings.steps and clock.spent(settings.hours)
        return f"its budget of {settings.hours:g} hours is spent (train.hours)" if spent else ""

    with StopRequest() as stop:
        if resume is not None and not resume.validated:
            look(first_step, stop)
            state.save_last(first_step)
        done, ended = first_step, ending(first_step)
        batches: Iterable[Batch] = () if ended else task.batches(first_step, device.type == "cuda")
        for number, batch in enumerate(batches, start=first_step):
            done, epoch = number + 1, number // settings.steps_per_epoch
            to_log = done % settings.log_every == 0
            to_validate = done % settings.validation_interval == 0 or done == settings.steps
            to_save = done % settings.checkpoint_every == 0 or done == settings.steps
            # A step's random draws depend on the seed and the step alone, so there is no random state to resume.
            seed_network(random_seed(settings.seed, Stream.MODEL_IN_STEP, number, 0), device)
            rate = plateau.factor * learning_rate(config.optim, number, settings.steps, settings.steps_per_epoch)
            set_learning_rate(optimizer, rate, config.optim.heads_lr)
            if number % settings.steps_per_epoch == 0:
                strategy.start_epoch(model, epoch, measured)
            comparison = ModalityComparison(settings.log_shapley) if to_log else None
            model.train()
            strategy.train()
            within = (
                contextlib.nullcontext()
                if memory is None
                else memory.watch(number, optimizer, model, strategy, average)
            )
            with within:
                losses = train_step(
                    model,
                    strategy,
                    optimizer,
                    criterion,
                    batch,
                    Step(number, settings.steps, settings.seed),
                    clip_norm=config.optim.clip_norm,
                    settings=settings,
                    autocast=autocast,
                    scale=scale,
                    monitor=monitor,
                    comparison=comparison,
                )
                average.update(done)
            finite.add(number, batch, losses)
            stopping = 0
            # Several processes agree only where they wait for one another in any case.
            if not distributed.active() or to_log or to_validate or to_save:
                stopping = max(distributed.gather_json(stop.number or 0, device))
                clock.read(device)
            to_validate |= clock.spent(settings.hours)
            to_save |= clock.due(settings.checkpoint_minutes)
            # Reading a loss makes a GPU program wait, so losses are read together, before anything is written.
            if device.type == "cpu" or to_log or to_validate or to_save or stopping:
                loss = finite.loss()
            if comparison is not None:
                finite.gradients(done, settings.log_every, searching=scale.searching)
                diagnostics = {**monitor.values(), **comparison.values(), **strategy.diagnostics()}
                record: Record = {"kind": "train", "step": done, "epoch": epoch, "loss": loss}
                record |= {"losses": {name: value.item() for name, value in losses.items()}, "learning_rate": rate}
                record |= readable(diagnostics, model.modalities)
                pace = (clock.seconds - clock.before) / (done - first_step)
                log({**record, "seconds_per_step": pace, "seconds": clock.seconds})
                if log_gradients is not None:
                    log_gradients(done, comparison.gradients)
            if to_validate and task.splits.validation:
                try:
                    look(done, stop)
                except Stopped as stopped:
                    state.save_last(done, validated=False)
                    raise Stopped(stopped.number, done) from None
            ended = ending(done)
            if to_save or stopping or ended:
                state.save_last(done)
            if stopping:
                raise Stopped(stopping, done)
            if ended:
                break
    distributed.barrier()
    return done, ended
