"""newstrategy: a modality whose score is below the mean gets larger updates, one above it smaller ones.

CHANGE: the rule in words, and whose it is: authors, where it was published, a link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from cggm_med import ConfigError, FactorStrategy, Step, StrategyConfig
from torch import Tensor


def newstrategy_factors(score: Tensor, strength: float) -> Tensor:
    """CHANGE: the rule as a formula, ``1 + strength (mean score - score)``.

    Args:
        score: ``(modality,)`` in [0, 1], higher is better.
        strength: how far factors may move from one.

    Returns:
        ``(modality,)``, what each encoder's update is multiplied by.

    Example:
        >>> newstrategy_factors(torch.tensor([0.25, 0.75]), strength=0.5)
        tensor([1.1250, 0.8750])
    """
    deviation = score.mean() - score
    # Scores that are equal must give exactly one, whatever the mean is rounded to.
    return 1 + strength * torch.where(deviation.abs() < 1e-6, 0, deviation)


@dataclass(frozen=True)
class NewstrategyConfig(StrategyConfig):
    """CHANGE: settings, as in ``--set strategy.strength=0.8``.

    Attributes:
        strength: how far factors may move from one; with 0 it is joint training.
    """

    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise ConfigError(f"strategy.strength is {self.strength}, expected from 0 to 1")


class Newstrategy(FactorStrategy):
    """The base class scores each modality by a classifier head that watches it, and applies the factors."""

    Config = NewstrategyConfig
    # CHANGE: the line of 'cggm-med strategies', and the paper.
    description = "larger updates for the modalities that score below the mean"
    url = ""
    config: NewstrategyConfig

    def factors(self, rows: Any, score: Tensor, usable: Tensor, step: Step) -> Tensor:
        """See ``newstrategy_factors``; a batch may lack modalities, ``score`` is that of the present ones."""
        return newstrategy_factors(score, self.config.strength)
