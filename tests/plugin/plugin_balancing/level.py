"""Level balancing: a modality whose score is below the mean gets larger updates, one above it smaller ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cggm_med import FactorStrategy, StrategyConfig


@dataclass(frozen=True)
class LevelConfig(StrategyConfig):
    """Settings: ``strength`` is how far factors may move from one."""

    strength: float = 0.5


class Level(FactorStrategy):
    """``1 + strength (mean score - score)``, between 1 - strength and 1 + strength."""

    Config = LevelConfig
    description = "larger updates for the modalities that score below the mean"
    url = "https://example.org/level"

    def factors(self, rows, score, usable, step):
        """Factors of the present modalities."""
        deviation = score.mean() - score
        # Scores that are equal must give exactly one, whatever the mean is rounded to.
        deviation = torch.where(deviation.abs() < 1e-6, 0, deviation)
        return 1 + self.config.strength * deviation
