"""The scale of gradients in float16, hidden from strategies: they read and write gradients as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.strategies.base import BalancingStrategy

START = 2.0**16
LARGEST = 2.0**24  # where gradients vanish even so, nothing is gained by more, and infinity could not be halved
PATIENCE = 2000  # finite steps after which a larger scale is tried


class GradientScale(nn.Module):
    """Lets gradients pass through a network in float16 times a power of two, so that small ones do not vanish.

    Each gradient is multiplied where it leaves the losses and divided again at the parameters before anything reads it,
    so ``.grad`` and ``torch.autograd.grad`` give it as it is. The scale is halved after a step whose gradient is not
    finite, which is skipped in any case, and doubled after 2,000 others: the rule of dynamic loss scaling (Micikevicius
    et al., ICLR 2018, Section 3.2, https://arxiv.org/abs/1710.03740). Buffers, with other formats than float16 none:
    ``scale``, and ``finite``, the number of steps since it changed.

    Args:
        number: in which the network computes.
        modules: whose parameters are trained.

    Example:
        >>> layer, scale = nn.Linear(1, 1, bias=False), GradientScale(torch.float16)
        >>> scale.follow(torch.tensor(False))
        >>> scale.scale
        tensor(32768.)
    """

    scale: Tensor
    finite: Tensor

    def __init__(self, number: torch.dtype, *modules: nn.Module) -> None:
        super().__init__()
        self.active, self._within = number == torch.float16, False
        if self.active:
            self.register_buffer("scale", torch.tensor(START))
            self.register_buffer("finite", torch.zeros(()))
            for parameter in dict.fromkeys(p for module in modules for p in module.parameters() if p.requires_grad):
                parameter.register_hook(self._unscaled)

    def backward(self, strategy: BalancingStrategy, losses: Mapping[str, Tensor], model: MultimodalModel) -> None:
        """Let the strategy add the gradients of these losses to ``.grad``."""
        if not self.active:
            strategy.backward(losses, model)
            return
        self._within = True
        try:
            strategy.backward({name: _Scaled.apply(loss, self.scale) for name, loss in losses.items()}, model)
        finally:
            self._within = False

    def follow(self, finite: Tensor) -> None:
        """Change the scale, on the device, by whether a step's gradient was finite (boolean scalar)."""
        if self.active:
            self.finite.copy_(torch.where(finite, self.finite + 1, 0))
            grown = torch.where(self.finite >= PATIENCE, (2 * self.scale).clamp_max(LARGEST), self.scale)
            self.scale.copy_(torch.where(finite, grown, (self.scale / 2).clamp_min(1)))
            self.finite.copy_(torch.where(self.finite >= PATIENCE, 0, self.finite))

    def continue_from(self, state: Mapping[str, Any]) -> None:
        """Go on with the state of a checkpoint; that of a training in another format is empty and changes nothing."""
        if self.active and state:
            self.load_state_dict(state)

    @property
    def searching(self) -> bool:
        """Whether a smaller scale is left to try where gradients are not finite; waits for the device."""
        return self.active and self.scale.item() > 1

    def _unscaled(self, gradient: Tensor) -> Tensor:
        return gradient / self.scale if self._within else gradient


class _Scaled(torch.autograd.Function):
    """A loss as it is, whose gradient is scaled."""

    @staticmethod
    def forward(context: Any, loss: Tensor, scale: Tensor) -> Tensor:
        context.scale = scale.clone()
        return loss.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.scale, None
