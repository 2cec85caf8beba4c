"""Joint training on subsets of the modalities as well: the two options of ``objectives.subsets`` as strategies."""

from __future__ import annotations

from cggm_med.config import Tree
from cggm_med.strategies.base import BalancingStrategy


class ModalityDropout(BalancingStrategy):
    """Joint training with ``train.modality_dropout``, as in Neverova et al., ModDrop, T-PAMI 2016."""

    description = "joint training in which modalities are left out at random (train.modality_dropout=0.25)"
    url = "https://arxiv.org/abs/1501.00102"

    @classmethod
    def settings_for(cls, task: str) -> Tree:
        """The option's rate."""
        return {"train": {"modality_dropout": 0.25}}


class SubsetView(BalancingStrategy):
    """Joint training with ``train.subset_view``."""

    description = "joint training with a second loss on a random subset of the modalities (train.subset_view=0.5)"

    @classmethod
    def settings_for(cls, task: str) -> Tree:
        """The option's weight."""
        return {"train": {"subset_view": 0.5}}
