"""One network for each modality, trained alone, whose predictions are averaged: the control of every claim of a gain.

A multimodal network has to beat the best modality, and the mean of all, each with a network of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from cggm_med.models.base import MultimodalModel
from cggm_med.models.ensemble import Ensemble
from cggm_med.objectives.activation import Average
from cggm_med.strategies.base import BalancingStrategy


class UnimodalEnsemble(BalancingStrategy):
    """Every network learns from its own prediction alone. The mean is what the run predicts; it trains nothing.

    A single modality's network is what ``evaluate --subsets`` scores as the subset of that modality. The networks share
    batches, crops and the choice of the checkpoint, nothing else.
    """

    description = (
        "one network a modality, trained alone; the prediction is the mean of theirs: the control without fusion"
    )
    controls = ("joint",)
    has_heads = False

    @classmethod
    def network(
        cls, modalities: Sequence[str], make: Callable[[Sequence[str]], MultimodalModel], average: Average
    ) -> MultimodalModel:
        """One of the task's networks for each modality."""
        return Ensemble({m: make([m]) for m in modalities}, average)

    def guide(self, modalities: Iterable[str]) -> Tensor:
        """Recent scores of the networks themselves."""
        return self.recent_score[self.rows(modalities)]
