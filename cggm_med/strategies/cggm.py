"""Classifier-guided gradient modulation (CGGM), Guo et al., NeurIPS 2024, https://arxiv.org/abs/2411.01409.

Classifier heads watch how fast each modality improves; the encoder of a modality that lags gets larger updates, that
of one that runs ahead smaller ones. The paper's coefficient of modality m is ``B_m = sum_{k != m} d_k / sum_k d_k``,
with d_k the change of head k's score between two batches. Taken literally it has neither mean nor bound, since the
sum in its denominator goes through zero. Here d_k is smoothed and made positive first, after which the same formula
is bounded and has mean one (ADR 0003).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from cggm_med.config import require
from cggm_med.distributed import sum_over_processes
from cggm_med.models.base import MultimodalModel
from cggm_med.models.unimodal import UnimodalHeads
from cggm_med.strategies.base import BalancingStrategy, Criterion, ScoreSums, StrategyConfig, scale_updates
from cggm_med.typing import Outputs

FAST, SLOW = 0.9, 0.99  # decay of the two running means whose difference is the improvement
MAX_Z = 3.0  # standardised lead at which a factor saturates
NOISE_FLOOR = 1e-4  # keeps differences below any plausible noise from being standardised into a signal


def balancing_factors(improvement: Tensor, noise: Tensor) -> Tensor:
    """The paper's coefficient B_m over positive utilities, scaled to mean one.

    The common part of the improvements is removed, what is left is measured in units of its noise and squashed to
    (-3, 3), a softplus makes it a positive utility u, and ``w_m = M/(M-1) * sum_{k != m} u_k / sum_k u_k``.

    Args:
        improvement: ``(modality,)``, how much each head's loss fell, on one scale for all.
        noise: scalar, standard deviation of a difference that means nothing.

    Returns:
        ``(modality,)``, in (0, M/(M-1)), mean 1; the modality that improved least has the largest.

    Example:
        >>> balancing_factors(torch.tensor([0.2, 0.1]), torch.tensor(0.1))
        tensor([0.6590, 1.3410])
    """
    modalities = len(improvement)
    if modalities == 1:
        return torch.ones_like(improvement)
    z = (improvement - improvement.mean()) / noise
    utility = F.softplus(z / torch.sqrt(1 + (z / MAX_Z) ** 2))
    return modalities / (modalities - 1) * (1 - utility / utility.sum())


def temper(factors: Tensor, strength: float, low: float, high: float) -> Tensor:
    """Move factors towards one: by ``strength``, and further where one of them would leave ``[low, high]``.

    All are moved alike, so that their mean stays exactly one, which cutting each for itself would not keep.

    Example:
        >>> temper(torch.tensor([0.2, 1.8]), strength=0.5, low=0.5, high=1.5)
        tensor([0.6000, 1.4000])
        >>> temper(torch.tensor([0.2, 1.8]), strength=1.0, low=0.5, high=1.5)
        tensor([0.5000, 1.5000])
    """
    deviation = strength * (factors - 1)
    room = torch.where(deviation < 0, 1 - low, high - 1)
    excess = (deviation.abs() / room).max()
    return 1 + deviation / excess.clamp_min(1)


@dataclass(frozen=True)
class CGGMConfig(StrategyConfig):
    """Settings of CGGM.

    Attributes:
        unimodal_weight: share of the heads' gradient that reaches the encoders; 0 detaches the heads as in the paper.
        strength: how far factors may move from one; 0 leaves every encoder alone.
        min_factor: smallest factor.
        max_factor: largest factor.
        warmup_steps: steps with all factors at one; default 50 or one epoch, whichever is longer.
    """

    unimodal_weight: float = 0.3
    strength: float = 0.5
    min_factor: float = 0.5
    max_factor: float = 1.5
    warmup_steps: int | None = None

    def __post_init__(self) -> None:
        require(self.unimodal_weight >= 0, "strategy.unimodal_weight", self.unimodal_weight, "at least 0")
        require(self.strength >= 0, "strategy.strength", self.strength, "at least 0")
        require(0 <= self.min_factor < 1, "strategy.min_factor", self.min_factor, "at least 0, below 1")
        require(self.max_factor > 1, "strategy.max_factor", self.max_factor, "more than 1")
        require((self.warmup_steps or 0) >= 0, "strategy.warmup_steps", self.warmup_steps, "at least 0")


class CGGM(BalancingStrategy):
    """Heads' losses through the encoders plus a bounded factor on each encoder's update.

    With ``unimodal_weight=0`` and ``strength=0`` the model is trained bit for bit as by joint training.

    Buffers, ``(modality,)`` unless said otherwise: ``fast`` and ``slow`` running means of each head's loss (one minus
    its soft Dice, so that all share one scale), ``seen`` how many steps each entered, ``noise`` and ``noise_seen``
    (scalars) the running variance of the differences between modalities, ``step`` (scalar), ``score`` and ``factor``.
    """

    Config = CGGMConfig
    description = "classifier heads through the encoders plus a bounded factor on each encoder's update"
    url = "https://arxiv.org/abs/2411.01409"
    heads: UnimodalHeads
    fast: Tensor
    slow: Tensor
    seen: Tensor
    noise: Tensor
    noise_seen: Tensor
    step: Tensor
    score: Tensor
    factor: Tensor

    def __init__(self, config: CGGMConfig) -> None:
        super().__init__(config)
        self.config = config

    def setup(
        self,
        model: MultimodalModel,
        make_heads: Callable[[], UnimodalHeads],
        score_sums: ScoreSums,
        steps_per_epoch: int,
    ) -> None:
        """See the base class.

        Raises:
            ValueError: if a modality matches no parameter.
        """
        for modality in model.modalities:
            model.modality_parameters(modality)
        self.modalities = model.modalities
        self.heads = make_heads()
        self.score_sums = score_sums
        warmup = self.config.warmup_steps
        self.warmup_steps = max(50, steps_per_epoch) if warmup is None else warmup
        count = len(model.modalities)
        for name in ("fast", "slow", "seen", "score"):
            self.register_buffer(name, torch.zeros(count))
        for name in ("noise", "noise_seen", "step"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("factor", torch.ones(count))

    def losses(self, outputs: Outputs, target: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        """The fused loss, and each present modality's own."""
        losses = super().losses(outputs, target, criterion)
        logits = self.heads(outputs.features, encoder_weight=self.config.unimodal_weight)
        losses |= {modality: criterion(x, target) for modality, x in logits.items()}
        sums = torch.stack([self.score_sums(x, target) for x in logits.values()])
        self.observe(tuple(logits), sum_over_processes(sums))
        return losses

    @torch.no_grad()
    def observe(self, present: tuple[str, ...], sums: Tensor) -> None:
        """Update scores and factors from one step's statistics; nothing is read back from the device.

        Modalities that are absent, and steps in which no target occurred, leave their state as it is.

        Args:
            present: the modalities in this batch, in the model's order.
            sums: ``(present, target, 3)``, see ``setup``; already summed over processes.
        """
        occurred = (sums[..., 2] > 0).float()
        score = (sums[..., 0] / sums[..., 1].clamp_min(1e-8) * occurred).sum(-1) / occurred.sum(-1).clamp_min(1)
        usable = torch.isfinite(score).all() & (occurred.sum() > 0)
        everyone = present == self.modalities
        rows: Any = slice(None) if everyone else [self.modalities.index(m) for m in present]

        self.step += 1
        loss = 1 - score
        seen = self.seen[rows] + 1
        fast = FAST * self.fast[rows] + (1 - FAST) * loss
        slow = SLOW * self.slow[rows] + (1 - SLOW) * loss
        mean_fast, mean_slow = fast / (1 - FAST**seen), slow / (1 - SLOW**seen)
        scale = mean_slow.mean().clamp_min(1e-8)
        improvement = (mean_slow - mean_fast) / scale
        error = (loss - mean_slow) / scale
        noise_seen = self.noise_seen + 1
        noise = SLOW * self.noise + (1 - SLOW) * (error - error.mean()).square().mean()
        # A running mean of independent values has (1 - decay) / (1 + decay) times their variance.
        spread = torch.sqrt(noise / (1 - SLOW**noise_seen) * (1 - FAST) / (1 + FAST)) + NOISE_FLOOR
        factor = balancing_factors(improvement, spread)
        factor = temper(factor, self.config.strength, self.config.min_factor, self.config.max_factor)
        factor = torch.where(self.step > self.warmup_steps, factor, torch.ones_like(factor))

        new = {"fast": fast, "slow": slow, "seen": seen, "score": score, "factor": factor}
        for name, value in new.items():
            buffer = getattr(self, name)
            buffer[rows] = torch.where(usable, value, buffer[rows])
        self.noise.copy_(torch.where(usable, noise, self.noise))
        self.noise_seen.copy_(torch.where(usable, noise_seen, self.noise_seen))

    def modulate(self, model: MultimodalModel, optimizer: Optimizer) -> None:
        """Scale each encoder's update by its factor."""
        scale_updates(model, optimizer, dict(zip(self.modalities, self.factor.unbind(), strict=True)))

    def diagnostics(self) -> dict[str, Tensor]:
        """Each modality's score (soft Dice of its head) and factor."""
        return {"score": self.score.clone(), "factor": self.factor.clone()}
