"""Combining two gradients of each encoder, of the fused loss and of its own, without conflict (MMPareto).

Wei and Hu, ICML 2024, https://arxiv.org/abs/2405.17730.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from cggm_med.distributed import average, average_known
from cggm_med.models.base import MultimodalModel

Rescale = Literal["encoder", "tensor"]
MIN_SQUARED_NORM = 1e-30  # below it, a gradient counts as zero
ROUNDING = 1e-5  # share of two gradients' lengths below which their combination is a rounding error


def min_norm_weight(gg: Tensor, gu: Tensor, uu: Tensor) -> Tensor:
    """Weight a in [0, 1] that makes ``a g + (1 - a) u`` shortest.

    Args:
        gg: inner product of g with itself.
        gu: of g with u.
        uu: of u with itself.

    Returns:
        ``(<u,u> - <g,u>) / |g - u|^2``, cut to [0, 1]; one half where both are the same.

    Example:
        >>> min_norm_weight(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(3.0))
        tensor(0.7500)
    """
    distance = gg + uu - 2 * gu
    inner = ((uu - gu) / torch.where(distance > MIN_SQUARED_NORM, distance, 1)).clamp(0, 1)
    return torch.where(distance > MIN_SQUARED_NORM, inner, torch.full_like(inner, 0.5))


def pareto_gradient(
    fused: Sequence[Tensor], own: Sequence[Tensor], rescale: Rescale = "encoder"
) -> tuple[list[Tensor], Tensor]:
    """Combine the fused loss's and a modality's own gradient of one encoder.

    Where they agree (positive cosine) the result is their sum. Where they conflict, it is twice the shortest vector
    between them, which descends on both, rescaled to the length of the sum if it is shorter.

    Args:
        fused: gradient of the fused loss, one tensor per parameter.
        own: gradient of the modality's own loss, with the same shapes.
        rescale: restore the length of the whole ``encoder``'s gradient, which keeps its direction, or of each
            ``tensor``'s, as the authors' code does.

    Returns:
        The combined gradient, and the cosine (scalar) between the two.

    Example:
        >>> pareto_gradient([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])])[0]
        [tensor([0.4472, 0.8944])]
    """
    g = torch.cat([x.flatten() for x in fused]).float()
    u = torch.cat([x.flatten() for x in own]).float()
    gg, gu, uu = g @ g, g @ u, u @ u
    lengths = (gg.sqrt() * uu.sqrt()).clamp_min(MIN_SQUARED_NORM)
    cosine = gu / lengths
    # A zero gradient, such as that of a modality that was left out, conflicts with nothing.
    agree = (gu > 0) | (torch.minimum(gg, uu) < MIN_SQUARED_NORM)
    half = torch.full_like(cosine, 0.5)
    # Both from the formula: one minus the other would lose all digits if one gradient is far longer.
    a = torch.where(agree, half, min_norm_weight(gg, gu, uu))
    b = torch.where(agree, half, min_norm_weight(uu, gu, gg))
    combined = [2 * a * x + 2 * b * y for x, y in zip(fused, own, strict=True)]
    plain = torch._foreach_norm([x + y for x, y in zip(fused, own, strict=True)])
    shortened = torch._foreach_norm(combined)
    longest = [x.norm() + y.norm() for x, y in zip(fused, own, strict=True)]
    norms = [torch.stack(list(x)) for x in (plain, shortened, longest)]
    if rescale == "encoder":
        norms = [x.norm().expand_as(x) for x in norms]
    for x, before, after, length in zip(combined, *norms, strict=True):
        # Opposite gradients leave only rounding errors, which must not be stretched to the length of a gradient.
        significant = after > ROUNDING * length
        x.mul_(torch.where(significant, before / torch.where(significant, after, 1), 1).clamp_min(1))
    return combined, cosine


class ParetoGradients(nn.Module):
    """Collects each encoder's own gradients over the parts of a batch, and combines them when it is complete.

    Buffer: ``cosine`` ``(modality,)``, between the two gradients of each encoder in the last step.

    Args:
        modalities: how many.
        rescale: see ``pareto_gradient``.
    """

    cosine: Tensor

    def __init__(self, modalities: int, rescale: Rescale) -> None:
        super().__init__()
        self.rescale = rescale
        self.own: dict[str, dict[int, Tensor]] = {}
        self.register_buffer("cosine", torch.zeros(modalities))

    def backward(self, losses: Mapping[str, Tensor], model: MultimodalModel, heads: nn.Module) -> None:
        """Differentiate the losses named after modalities through their heads and encoders, then all others."""
        present = [m for m in model.modalities if m in losses]
        own = [(m, i, p) for m in present for i, p in enumerate(model.modality_parameters(m))]
        head_parameters = list(heads.parameters())
        if present:
            total = torch.stack([losses[m] for m in present]).sum()
            wanted = [*head_parameters, *(p for _, _, p in own)]
            gradients = torch.autograd.grad(total, wanted, retain_graph=True, allow_unused=True)
            for parameter, gradient in zip(head_parameters, gradients, strict=False):
                if gradient is None:
                    continue
                if parameter.grad is None:  # with the memory layout of its parameter, which optimizers may expect
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(gradient)
            for (m, i, _), gradient in zip(own, gradients[len(head_parameters) :], strict=True):
                if gradient is not None:
                    by_index = self.own.setdefault(m, {})
                    # Not in place: parameters that are summed directly share one gradient tensor.
                    by_index[i] = by_index[i] + gradient if i in by_index else gradient
        torch.stack([loss for name, loss in losses.items() if name not in present]).sum().backward()

    @torch.no_grad()
    def combine(self, model: MultimodalModel, *, some_lack: bool = False) -> None:
        """Replace each encoder's gradient, already the mean over processes, by the combined one.

        Parameters that the modality's own loss does not reach keep the fused gradient.

        Args:
            model: the network.
            some_lack: whether the samples of a process may lack a modality that others have.
        """
        if some_lack:
            self._share(model)
        else:
            average([gradient for by_index in self.own.values() for gradient in by_index.values()])
        for m, by_index in self.own.items():
            parameters = [model.modality_parameters(m)[i] for i in by_index]
            fused = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            combined, cosine = pareto_gradient(fused, list(by_index.values()), self.rescale)
            self.cosine[model.modalities.index(m)] = cosine
            for parameter, gradient, new in zip(parameters, fused, combined, strict=True):
                gradient.copy_(new)  # in place: an optimizer may rely on a gradient's memory layout
                parameter.grad = gradient
        self.own = {}

    def _share(self, model: MultimodalModel) -> None:
        """Average over processes where some may lack a modality."""
        every = [(m, i, p) for m in model.modalities for i, p in enumerate(model.modality_parameters(m))]
        own = [self.own.get(m, {}).get(i) for m, i, _ in every]
        self.own = {}
        for (m, i, _), mean in zip(every, average_known(own, [p for *_, p in every]), strict=True):
            if mean is not None:
                self.own.setdefault(m, {})[i] = mean
