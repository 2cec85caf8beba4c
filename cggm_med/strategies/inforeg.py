"""Information acquisition regulation (InfoReg), Huang et al., CVPR 2025, https://arxiv.org/abs/2503.18595.

While a modality still gains information fast and predicts better than the others, its encoder is held back towards
where it was at the start of the epoch, which leaves time for the others to learn.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cggm_med.config import require
from cggm_med.models.base import MultimodalModel
from cggm_med.randomness import Step
from cggm_med.strategies.base import BalancingStrategy, MeasuredLosses, StrategyConfig
from cggm_med.strategies.parts.ratios import TIE

WINDOW = 10  # epochs over which Fisher traces are averaged


def information_growth(traces: Tensor) -> Tensor:
    """``(T_now - T_before) / T_now``, with ``T`` the mean Fisher trace of ten epochs; 1 before the first.

    Args:
        traces: ``(11, modality)``, of the last epochs, oldest first, 0 before the run began.

    Example:
        >>> traces = torch.zeros(11, 1)
        >>> traces[-2:, 0] = torch.tensor([3.0, 1.0])
        >>> information_growth(traces)
        tensor([0.2500])
    """
    before, now = traces[:-1].mean(0), traces[1:].mean(0)
    return torch.where(now > 0, (now - before) / torch.where(now > 0, now, 1), 1.0)


def regulation(score: Tensor, growth: Tensor, beta: float, threshold: float) -> Tensor:
    """``beta exp(tanh(lead))`` for a modality that leads and whose information still grows, else 0.

    ``lead`` is the score less the mean of the others'.

    Args:
        score: ``(modality,)`` in [0, 1].
        growth: ``(modality,)``, see ``information_growth``.
        beta: strength, at least 0.
        threshold: growth up to which a modality is let go (K).

    Example:
        >>> regulation(torch.tensor([0.7, 0.2]), torch.tensor([0.3, 0.3]), beta=0.95, threshold=0.05)
        tensor([1.5081, 0.0000])
    """
    modalities = len(score)
    lead = modalities / max(modalities - 1, 1) * (score - score.mean())
    held = (lead > TIE) & (growth > threshold)
    return torch.where(held, beta * torch.exp(torch.tanh(lead)), 0)


@dataclass(frozen=True)
class InfoRegConfig(StrategyConfig):
    """Settings of InfoReg.

    Attributes:
        beta: how strongly a leading encoder is held back; the authors' code has 0.95 for audio and 0.1 for video.
        threshold: relative growth of the Fisher trace that ends the prime learning window (K).
        unimodal_weight: factor on the heads' gradient that reaches the encoders.
    """

    beta: float = 0.95
    threshold: float = 0.05
    unimodal_weight: float = 1.0

    def __post_init__(self) -> None:
        require(self.beta >= 0, "strategy.beta", self.beta, "at least 0")
        require(0 <= self.threshold < 1, "strategy.threshold", self.threshold, "at least 0, below 1")
        require(self.unimodal_weight >= 0, "strategy.unimodal_weight", self.unimodal_weight, "at least 0")


class InfoReg(BalancingStrategy):
    """Adds ``alpha_m (theta_m - theta_m at the start of the epoch)`` to the gradient of an encoder that leads.

    A modality is scored by its share of a linear fused head where there is one, as in the authors' code, otherwise by
    its classifier head.

    Further buffers: ``regulation`` ``(modality,)``, alpha of the last step; ``traces`` ``(11, modality)``, of the
    epochs before; ``trace`` and ``steps`` ``(modality,)``, the sum of squared gradient norms of this epoch and how many
    are in it; and for each modality its parameters at the start of the epoch.
    """

    Config = InfoRegConfig
    description = "the encoder that leads is held back while it still gains information fast"
    url = "https://arxiv.org/abs/2503.18595"
    controls = (*BalancingStrategy.controls, "uniform_full")
    from_shares = True
    config: InfoRegConfig
    regulation: Tensor
    traces: Tensor
    trace: Tensor
    steps: Tensor

    @property
    def unimodal_weight(self) -> float:
        """See the settings."""
        return self.config.unimodal_weight

    def prepare(self, model: MultimodalModel) -> None:
        """See the base class."""
        super().prepare(model)
        for name in ("regulation", "trace", "steps"):
            self.register_buffer(name, torch.zeros(len(model.modalities)))
        self.register_buffer("traces", torch.zeros(WINDOW + 1, len(model.modalities)))
        for i, modality in enumerate(model.modalities):
            start = _flat(model.modality_parameters(modality)).detach()
            self.register_buffer(_start(i), start)

    @torch.no_grad()
    def start_epoch(self, model: MultimodalModel, epoch: int, losses: MeasuredLosses) -> None:
        """Enter the Fisher trace of the epoch before, and remember where each encoder is."""
        if epoch:
            mean = torch.where(self.steps > 0, self.trace / self.steps.clamp_min(1), self.traces[-1])
            self.traces.copy_(torch.cat([self.traces[1:], mean[None]]))
            self.trace.zero_()
            self.steps.zero_()
        for i, modality in enumerate(self.modalities):
            self.get_buffer(_start(i)).copy_(_flat(model.modality_parameters(modality)))

    def observe(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> None:
        """See ``regulation``."""
        growth = information_growth(self.traces)[rows]
        self.keep(rows, usable, regulation=regulation(score, growth, self.config.beta, self.config.threshold))

    def combine(self, model: MultimodalModel) -> None:
        """Average over processes, add to the Fisher traces, then hold back."""
        super().combine(model)
        with torch.no_grad():
            for i, modality in enumerate(self.modalities):
                self._hold(i, model, modality)

    def _hold(self, i: int, model: MultimodalModel, modality: str) -> None:
        parameters = model.modality_parameters(modality)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        squared = torch.stack(torch._foreach_norm(gradients)).square().sum()
        finite = torch.isfinite(squared)
        self.trace[i] += torch.where(finite, squared, 0)
        self.steps[i] += finite
        starts = self.get_buffer(_start(i)).split([p.numel() for p in parameters])
        for parameter, start in zip(parameters, starts, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(self.regulation[i] * (parameter - start.view_as(parameter)))

    def diagnostics(self) -> dict[str, Tensor]:
        """Each modality's score, how strongly it is held back, and how its information grows."""
        own = {"regulation": self.regulation.clone(), "information_growth": information_growth(self.traces)}
        return {**super().diagnostics(), **own}


def _flat(parameters: Iterable[Tensor]) -> Tensor:
    """All values in one vector, in an order that does not depend on how each tensor lies in memory."""
    return torch.cat([parameter.flatten() for parameter in parameters])


def _start(number: int) -> str:
    """Name of the buffer of an encoder's parameters; names of modalities may hold dots."""
    return f"start_{number}"
