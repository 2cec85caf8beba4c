"""CGGM's coefficients: from the scores of the classifier heads to one number per modality, stable or as in the paper.

Both rules are the paper's ``B_m = sum_{k != m} d_k / sum_k d_k`` of each modality's improvement d: the ratio rule takes
it literally, the stable rule applies it to smoothed, positive quantities (ADR 0003).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med.strategies.base import write_where

FAST, SLOW = 0.9, 0.99  # decay of the two running means whose difference is the improvement
MAX_Z = 3.0  # standardised lead at which a factor saturates
NOISE_FLOOR = 1e-4  # smallest noise, so that negligible differences are not standardised into a signal
CANCELLED = 1e-8  # total improvement below which the paper's ratio is meaningless


def balancing_factors(improvement: Tensor, noise: Tensor) -> Tensor:
    """The paper's coefficient B_m over positive utilities, scaled to mean one.

    The mean improvement is subtracted, the rest is divided by the noise and squashed to (-3, 3), a softplus makes it a
    positive utility u, and ``w_m = M/(M-1) * sum_{k != m} u_k / sum_k u_k``.

    Args:
        improvement: ``(modality,)``, how much each head's loss fell, on one scale for all.
        noise: scalar, standard deviation of a difference by chance.

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
    """Move factors towards one: by ``strength``, and further if one of them would leave ``[low, high]``.

    All are moved by the same factor, so that their mean stays exactly one, unlike with clipping.

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


def paper_coefficients(improvement: Tensor, rounding: float = 0.0) -> Tensor:
    """``B_m = sum_{k != m} d_k / sum_k d_k``, neither bounded nor positive; all 1 where the sum is almost 0.

    Args:
        improvement: ``(modality,)``, change of each score since the last step.
        rounding: sum that counts as 0, such as that of accuracies, which cancel exactly but for rounding.

    Returns:
        ``(modality,)``, whose sum is M - 1.

    Example:
        >>> paper_coefficients(torch.tensor([0.3, 0.1]))
        tensor([0.2500, 0.7500])
        >>> paper_coefficients(torch.tensor([0.3, -0.3]))
        tensor([1., 1.])
    """
    total = _total(improvement, rounding)
    cancelled = total.abs() < CANCELLED
    ratio = (total - improvement) / torch.where(cancelled, 1, total)
    return torch.where(cancelled | (len(improvement) == 1), torch.ones_like(ratio), ratio)


def released_coefficients(improvement: Tensor, rounding: float = 0.0) -> Tensor:
    """The coefficients of the authors' code: ``S = sum_k d_k + 1e-8``, ``B_m = (S - d_m) / S``.

    The small number is no safeguard: where the improvements cancel, it makes the coefficient huge.

    Args:
        improvement: see ``paper_coefficients``.
        rounding: see ``paper_coefficients``.

    Example:
        >>> released_coefficients(torch.tensor([0.5, -0.5]))
        tensor([-50000000.,  50000000.])
    """
    total = _total(improvement, rounding) + CANCELLED
    return (total - improvement) / total


def _total(improvement: Tensor, rounding: float) -> Tensor:
    total = improvement.sum()
    return torch.where(total.abs() < rounding, 0, total)


class StableCoefficients(nn.Module):
    """Bounded coefficients with mean one, from smoothed losses.

    Buffers: ``fast`` and ``slow`` ``(modality,)``, running means of each head's loss (one minus its score, so that all
    share one scale); ``seen`` ``(modality,)``, the number of steps in them; ``noise`` (scalar), the running variance of
    the differences between modalities, and ``noise_seen``, the number of steps in it.

    Args:
        modalities: how many.
        strength: how far coefficients may move from one.
        low: smallest.
        high: largest.
    """

    fast: Tensor
    slow: Tensor
    seen: Tensor
    noise: Tensor
    noise_seen: Tensor

    def __init__(self, modalities: int, strength: float, low: float, high: float) -> None:
        super().__init__()
        self.strength, self.low, self.high = strength, low, high
        for name in ("fast", "slow", "seen"):
            self.register_buffer(name, torch.zeros(modalities))
        for name in ("noise", "noise_seen"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, rows: Any, score: Tensor, usable: Tensor) -> Tensor:
        """Coefficients of the present modalities; see ``BalancingStrategy.observe``."""
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
        write_where(self, rows, usable, fast=fast, slow=slow, seen=seen)
        if len(score) > 1 or len(self.seen) == 1:  # one of several has no difference, which is not a small one
            write_where(self, (), usable, noise=noise, noise_seen=noise_seen)
        return temper(balancing_factors(improvement, spread), self.strength, self.low, self.high)


class RatioCoefficients(nn.Module):
    """The paper's ratio of raw improvements from one batch to the next, for ablation.

    Buffers: ``previous`` ``(modality,)`` scores; ``known`` ``(modality,)``, whether there is one; ``cancelled``, the
    number of steps in which the improvements cancelled; ``largest``, the largest magnitude of a coefficient so far.

    Args:
        modalities: how many.
        released: as in the authors' code: without a guard, and with a score of 0 before the first step.
        rounding: see ``paper_coefficients``.
    """

    previous: Tensor
    known: Tensor
    cancelled: Tensor
    largest: Tensor

    def __init__(self, modalities: int, released: bool, rounding: float = 0.0) -> None:
        super().__init__()
        self.released, self.rounding = released, rounding
        self.register_buffer("previous", torch.zeros(modalities))
        self.register_buffer("known", torch.full((modalities,), float(released)))
        for name in ("cancelled", "largest"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, rows: Any, score: Tensor, usable: Tensor) -> Tensor:
        """Coefficients of the present modalities; 1 until each has two scores."""
        improvement = score - self.previous[rows]
        ready = (self.known[rows] > 0).all()
        rule = released_coefficients if self.released else paper_coefficients
        coefficients = torch.where(ready, rule(improvement, self.rounding), torch.ones_like(score))
        usable = usable & torch.isfinite(coefficients).all()
        cancelled = self.cancelled + (ready & (_total(improvement, self.rounding).abs() < CANCELLED))
        largest = torch.maximum(self.largest, coefficients.abs().max())
        write_where(self, rows, usable, previous=score, known=torch.ones_like(score))
        write_where(self, (), usable, cancelled=cancelled, largest=largest)
        return coefficients
