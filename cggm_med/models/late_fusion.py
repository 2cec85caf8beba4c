"""A network that concatenates one feature vector per modality under a linear head: classification and regression."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.typing import Features, Outputs


class LateFusionModel(MultimodalModel):
    """One encoder per modality, concatenation, one linear head.

    The logits are ``sum_m W_m h_m + b``, where ``W_m`` is the head's slice for modality m. Where modalities are absent,
    the sum is over the others and scaled by (all modalities / present ones), so that its size stays what the head was
    trained on, as inverted dropout keeps it.

    Args:
        encoders: each maps its input to ``(batch, width)``.
        widths: length of each modality's feature vector.
        targets: number of classes or values.

    Example:
        >>> model = LateFusionModel({m: nn.Linear(2, 4) for m in ("audio", "text")}, {"audio": 4, "text": 4}, targets=3)
        >>> model({"text": torch.zeros(5, 2)}).shape
        torch.Size([5, 3])
    """

    head: nn.Linear

    def __init__(self, encoders: Mapping[str, nn.Module], widths: Mapping[str, int], targets: int) -> None:
        super().__init__(tuple(encoders))
        self.encoders = nn.ModuleDict(dict(encoders))
        self.widths = {m: widths[m] for m in self.modalities}
        self.head = nn.Linear(sum(self.widths.values()), targets)

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """The concatenated vectors, ``(batch, sum of widths)``, with zeros for absent modalities.

        Raises:
            ValueError: if no modality is given.
        """
        given = [m for m in self.modalities if m in features]
        if not given:
            raise ValueError("no modality to fuse: give at least one of " + ", ".join(self.modalities))
        some = features[given[0]].maps[-1]
        everyone = torch.ones(len(some), dtype=torch.bool, device=some.device)
        present = {m: everyone if (mask := features[m].present) is None else mask for m in given}
        count = torch.stack(list(present.values())).sum(0).clamp_min(1)
        parts = [
            torch.where(present[m][:, None], features[m].maps[-1], 0)
            if m in features
            else some.new_zeros(len(some), width)
            for m, width in self.widths.items()
        ]
        scale = len(self.modalities) / count.to(torch.promote_types(some.dtype, torch.float32))
        return (torch.cat(parts, dim=1) * scale[:, None],)

    def linear_shares(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        """``W_m h_m + b / M``, whose sum over all modalities is the logits."""
        bias = self.head.bias / len(self.modalities)
        return {
            m: nn.functional.linear(f.maps[-1], self.head_weight(m), bias.to(f.maps[-1].dtype))
            for m, f in features.items()
        }

    def head_input(self, modality: str, outputs: Outputs) -> Tensor:
        """The slice of the concatenation that is this modality's."""
        return outputs.fused[0][:, self._slice(modality)]

    def head_weight(self, modality: str) -> Tensor:
        """The slice of the head's weight that is this modality's."""
        return self.head.weight[:, self._slice(modality)]

    def _slice(self, modality: str) -> slice:
        names = list(self.widths)
        start = sum(self.widths[m] for m in names[: names.index(modality)])
        return slice(start, start + self.widths[modality])
