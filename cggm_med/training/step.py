"""One training step: encode, predict, let the strategy combine the losses, and update."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cggm_med.config import TrainConfig
from cggm_med.distributed import sum_over_processes
from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.subsets import modality_dropout, subset_view, subset_view_weight
from cggm_med.optim.optimizer import clip_gradients, step_if_finite, unchanged_rates
from cggm_med.randomness import Step
from cggm_med.strategies.base import BalancingStrategy, Criterion, fused_loss
from cggm_med.training.gradient_scale import GradientScale
from cggm_med.training.monitor import ModalityComparison, Monitor
from cggm_med.training.whole_batch import as_long_as_all, draws_of_whole_batch
from cggm_med.types import Batch


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
    scale: GradientScale | None = None,
    monitor: Monitor | None = None,
    comparison: ModalityComparison | None = None,
) -> dict[str, Tensor]:
    """One optimizer step; returns the named losses, still on the device.

    Args:
        model: in training mode.
        strategy: set up.
        optimizer: from ``make_optimizer``; its learning rates are the same afterwards.
        criterion: function of logits and target.
        batch: this process's share of the samples, on any device; samples may lack modalities.
        step: number of the step in the run; decides all random draws except those inside the model, which are drawn
            from torch's own stream, of the same seed in all processes.
        clip_norm: largest norm of the model's gradient.
        settings: only ``accumulate``, the modality dropout and the subset view are used.
        autocast: context for the network's computations.
        scale: of the gradients of model and strategy, needed where the network computes in float16.
        monitor: counts clipped and skipped steps.
        comparison: records how the modalities compare.
    """
    device = next(model.parameters()).device
    optimizer.zero_grad()
    parts = settings.accumulate
    step = dataclasses.replace(step, counts=_over_processes(batch.counts, model.modalities, device))
    total_losses: dict[str, Tensor] = {}
    batch = as_long_as_all(batch, device)
    for i, whole_part in enumerate(batch.split(parts)):
        part, now = whole_part.to(device), dataclasses.replace(step, part=i, parts=parts)
        with autocast(), draws_of_whole_batch(len(part.ids), now):
            strategy.see(part, now)
            features = model.encode(part.inputs, part.present)
            adapted = strategy.adapt_features(features, now)
            seen = modality_dropout(adapted, settings, now)
            # The subset view draws among all that is there, but reads the maps that the strategy gives the fusion.
            whole = {m: f._replace(maps=adapted[m].maps) if m in adapted else f for m, f in features.items()}
            subset = subset_view(whole, settings, now, strategy.guide(now.modalities(features)))
            fused, *second = model.predict([seen] if subset is None else [seen, subset])
            unimodal = strategy.unimodal(features) or fused.unimodal
            outputs = dataclasses.replace(fused, features=features, unimodal=unimodal)
            strategy.watch(model, outputs, part.target, now)
            losses = strategy.losses(model, outputs, part.target, criterion, now)
            if second:
                losses["subset"] = subset_view_weight(settings, now) * fused_loss(second[0], part.target, criterion)
            if comparison is not None:
                comparison.add(model, strategy, outputs, part.target, criterion, now)
        if parts > 1:
            losses = {name: loss / parts for name, loss in losses.items()}
        exchange = strategy.exchange if now.last else None
        with contextlib.nullcontext() if exchange is None else exchange.sending():
            if scale is None:
                strategy.backward(losses, model)
            else:
                scale.backward(strategy, losses, model)
        for name, loss in losses.items():
            total_losses[name] = total_losses[name] + loss.detach() if name in total_losses else loss.detach()
    strategy.combine(model)
    norms, fusion, norm = clip_gradients(model, clip_norm)
    with unchanged_rates(optimizer):
        strategy.modulate(model, optimizer, step)
        taken = step_if_finite(optimizer, norm)
    if scale is not None:
        scale.follow(taken)
    if monitor is not None:
        absent = [i for i, m in enumerate(model.modalities) if step.counts is not None and not step.counts[m]]
        monitor.record(norms, fusion, norm > clip_norm, taken, absent)
    return total_losses


def _over_processes(
    counts: Mapping[str, int] | None, modalities: Sequence[str], device: torch.device
) -> dict[str, int] | None:
    """Numbers of samples that have each modality, summed over processes, on the CPU."""
    if counts is None:
        return None
    here = [counts[m] for m in modalities]
    return dict(zip(modalities, sum_over_processes(torch.tensor(here, device=device)).tolist(), strict=True))
