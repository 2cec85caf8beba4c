"""Gradients at the last layer in closed form, and the direction term of CGGM.

The gradient of a loss with respect to the weight of a linear last layer is ``delta^T features`` with
``delta = dL/dlogits``: a derivative of the loss function alone, which needs no second pass through the network.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from cggm_med.distributed import sum_over_processes, world_size
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.randomness import Step
from cggm_med.types import Outputs

Criterion = Callable[[Tensor, Tensor], Tensor]


def weight_gradient(
    criterion: Criterion, logits: Tensor, hidden: Tensor, target: Tensor, *, differentiable: bool = False
) -> Tensor:
    """dL/dW of a linear last layer ``logits = W hidden + b``, summed over all voxels.

    Args:
        criterion: the loss, a function of logits and target.
        logits: ``(batch, target, ...)``.
        hidden: ``(batch, channel, ...)`` on the same grid.
        target: of the loss.
        differentiable: keep the graph, so that the result can be differentiated with respect to everything below the
            last layer.

    Returns:
        ``(target, channel)`` in float32.

    Example:
        >>> hidden, weight = torch.randn(5, 3), torch.randn(2, 3, requires_grad=True)
        >>> target = torch.tensor([0, 1, 1, 0, 1])
        >>> closed = weight_gradient(F.cross_entropy, hidden @ weight.T, hidden, target)
        >>> (expected,) = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, target), weight)
        >>> torch.allclose(closed, expected, atol=1e-6)
        True
    """
    if not differentiable:
        logits, hidden = logits.detach(), hidden.detach()
    with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if not differentiable:
            logits.requires_grad_()
        (delta,) = torch.autograd.grad(criterion(logits, target), logits, create_graph=differentiable)
        # A vector is an image of one voxel.
        delta, hidden = (x[..., None].flatten(2) for x in (delta, hidden.to(delta.dtype)))
        return torch.einsum("btv,bcv->tc", delta, hidden)


def last_layer_gradients(
    model: MultimodalModel,
    outputs: Outputs,
    target: Tensor,
    criterion: Criterion,
    *,
    heads: UnimodalHeads | None = None,
    step: Step | None = None,
    differentiable: bool = False,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Gradient of the fused loss and of each modality's own, at their last layers.

    Args:
        model: made ``outputs``.
        outputs: with the classifier heads' predictions.
        target: of the loss.
        criterion: the loss.
        heads: the classifier heads, needed where samples lack modalities: a modality that none of these samples has,
            but others of the batch have, adds a gradient of zeros.
        step: says which modalities the whole batch has; default: those of ``outputs``.
        differentiable: keep the graph of the fused gradient.

    Returns:
        By modality: the fused prediction's gradient (its slice for that modality where the head is linear in the
        concatenated features) and the head's, ``(target, channel)`` each; this process's and this part's share of them.
        Modalities whose head is not as wide as the fused one are left out: their gradients cannot be compared.
    """
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    fused: dict[tuple[int, torch.Size], Tensor] = {}  # the fused gradient, by what it is taken of
    for modality in outputs.unimodal if step is None or heads is None else step.modalities(outputs.unimodal):
        hidden, own = model.head_input(modality, outputs), outputs.unimodal.get(modality)
        if own is not None:
            gradient = weight_gradient(criterion, own.logits, own.hidden, own.target(target))
            gradient = gradient if step is None else step.weigh(modality, gradient, len(own.logits))
        else:
            assert heads is not None  # noqa: S101 - for the type checker
            gradient = torch.zeros_like(heads.last_weight(modality), dtype=torch.float32)
        if hidden.shape[1] != gradient.shape[1]:
            continue
        of = hidden.data_ptr(), hidden.shape  # where all modalities share it, it is computed once
        if of not in fused:
            fused[of] = weight_gradient(criterion, outputs.logits, hidden, target, differentiable=differentiable)
        pairs[modality] = fused[of], gradient
    return pairs


def cosines(pairs: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Cosine of each pair, ``(modality,)``; 0 where a gradient vanishes.

    The gradients are first averaged over processes. Differentiated, the result gives each process its own share, whose
    mean is the gradient of the cosine of the whole batch.
    """
    values = []
    for fused, own in pairs.values():
        whole = [sum_over_processes(x.detach()) / world_size() + (x - x.detach()) for x in (fused, own)]
        values.append(F.cosine_similarity(whole[0].flatten(), whole[1].flatten(), dim=0))
    return torch.stack(values)


def guidance_loss(coefficients: Tensor, cosine: Tensor) -> Tensor:
    """``L_gm = 1/M sum_m (|B_m| - B_m cos(g_m, g_fused))``: pulls the fused gradient towards each modality's.

    Args:
        coefficients: ``(modality,)``, B_m.
        cosine: ``(modality,)``.

    Example:
        >>> guidance_loss(torch.tensor([0.5, -1.0]), torch.tensor([0.5, 0.5]))
        tensor(0.8750)
    """
    return (coefficients.abs() - coefficients * cosine).mean()
