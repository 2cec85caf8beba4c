"""From gradients to an update: parameter groups by modality, clipping, scaling by factors, and the step itself.

The order within a training step (``training.step``) is ``clip_gradients``, then within ``unchanged_rates`` whatever the
strategy scales (``scale_updates``) and ``step_if_finite``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import SGD, Adam, AdamW, Optimizer

from cggm_med.config import OptimConfig
from cggm_med.models.base import MultimodalModel


def make_optimizer(model: MultimodalModel, strategy: nn.Module, config: OptimConfig, device: torch.device) -> Optimizer:
    """An optimizer with one parameter group per modality, one for shared parameters and one for the classifier heads.

    Args:
        model: knows which parameters belong to which modality.
        strategy: set up; its parameters are those of the classifier heads, if the model has none of its own.
        config: which optimizer, and its settings.
        device: of the parameters.

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
    own = list(dict.fromkeys([*(() if model.heads is None else model.heads.parameters()), *strategy.parameters()]))
    elsewhere = {*owner, *map(id, own)}
    shared = [p for p in model.parameters() if id(p) not in elsewhere]
    groups.append({"params": shared, "modality": None})
    if own:
        heads_decay = config.weight_decay if config.heads_weight_decay is None else config.heads_weight_decay
        groups.append({"params": own, "modality": None, "heads": True, "weight_decay": heads_decay})
    # Fused on CUDA, where it takes learning rates and skips steps without asking the CPU. Never on the CPU: there,
    # torch 2.13 scrambles updates when a gradient's memory layout differs from its parameter's.
    fused, decay, momentum = device.type == "cuda", config.weight_decay, config.momentum
    if config.name == "sgd":
        nesterov = config.nesterov and momentum > 0
        return SGD(groups, config.lr, momentum, weight_decay=decay, nesterov=nesterov, fused=fused)
    kind = Adam if config.name == "adam" else AdamW
    return kind(groups, config.lr, weight_decay=decay, fused=fused)


def clip_gradients(model: MultimodalModel, clip_norm: float) -> tuple[Tensor, Tensor, Tensor]:
    """Clip the model's gradient to a norm, each of the groups that the model wants clipped by themselves.

    Returns:
        Norm of each modality's gradient ``(modality,)``, of those of the fusion and all else that no modality owns, and
        of all together, before clipping.
    """
    device = next(model.parameters()).device
    own = [model.modality_gradients(m) for m in model.modalities]
    known = {id(g) for gradients in own for g in gradients}
    shared = [p.grad for p in model.parameters() if p.grad is not None and id(p.grad) not in known]
    norms = torch.stack([get_total_norm(g).to(device) for g in (*own, shared)])
    total = norms.norm()
    groups = model.clipped_together()
    for group in groups:
        own_norm = total if len(groups) == 1 else get_total_norm([p.grad for p in group if p.grad is not None])
        clip_grads_with_norm_(group, clip_norm, own_norm.to(device))
    return norms[:-1], norms[-1], total


def scale_updates(optimizer: Optimizer, factors: Mapping[str, Tensor]) -> None:
    """Scale the next update of each modality's parameters by a factor.

    For SGD the gradients are multiplied in place. Adam and its variants divide each gradient by its running magnitude,
    where a factor would cancel, so there the learning rate of the modality's parameter group is multiplied instead
    (ADR 0007). ``unchanged_rates`` undoes that after the step.

    Args:
        optimizer: from ``make_optimizer``, whose groups carry the key ``modality``.
        factors: scalar tensors by modality.

    Raises:
        ValueError: if a modality has no parameter group.
    """
    for modality, factor in factors.items():
        groups = [group for group in optimizer.param_groups if group.get("modality") == modality]
        if not groups:
            raise ValueError(f"the optimizer has no parameter group for modality '{modality}'")
        for group in groups:
            if isinstance(optimizer, SGD):
                if gradients := [p.grad for p in group["params"] if p.grad is not None]:
                    torch._foreach_mul_(gradients, factor)
                continue
            # Only the fused optimizer takes a tensor here, which avoids waiting for the device.
            group["lr"] = group["lr"] * (factor if group.get("fused") else factor.item())


def step_if_finite(optimizer: Optimizer, total: Tensor) -> Tensor:
    """Take the optimizer's step unless a gradient is not finite.

    A fused optimizer decides on the device, by the flag that torch's own gradient scaler sets.

    Args:
        optimizer: from ``make_optimizer``.
        total: norm of the model's gradient; those of the classifier heads, which are not clipped, are looked at here.

    Returns:
        Whether the step was taken, a boolean scalar on the device.
    """
    heads = [p.grad for group in optimizer.param_groups if group.get("heads") for p in group["params"]]
    own = get_total_norm([gradient for gradient in heads if gradient is not None])
    finite = torch.isfinite(total) & torch.isfinite(own.to(total.device))
    if all(group.get("fused") for group in optimizer.param_groups):
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif finite:
        optimizer.step()
    return finite


@contextlib.contextmanager
def unchanged_rates(optimizer: Optimizer) -> Iterator[None]:
    """Restore every group's learning rate after the block, so that factors do not accumulate over steps."""
    rates = [group["lr"] for group in optimizer.param_groups]
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
