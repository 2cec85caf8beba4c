"""Several networks of the same modalities as one, which predicts the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.activation import Average
from cggm_med.types import Features, Padded


class MeanNetwork(MultimodalModel):
    """The mean of whole networks that were trained apart; for prediction only.

    A modality's features are those of all networks, one after the other.

    Args:
        networks: of the same modalities, perhaps with other layers each.
        average: gives the logits of the mean, such as ``objectives.activation.average_overlapping``.

    Raises:
        ValueError: if there is no network, or one has other modalities than the first.

    Example:
        >>> from cggm_med.models.segmentation import SegmentationModel
        >>> from cggm_med.objectives.activation import average_overlapping
        >>> networks = [SegmentationModel(["flair", "t1"], 3, channels) for channels in ((4, 8), (4, 4, 8))]
        >>> MeanNetwork(networks, average_overlapping)({"t1": torch.zeros(1, 1, 8, 8, 8)}).shape
        torch.Size([1, 3, 8, 8, 8])
    """

    def __init__(self, networks: Sequence[MultimodalModel], average: Average) -> None:
        if not networks:
            raise ValueError("no network to average")
        super().__init__(networks[0].modalities)
        for network in networks:
            if set(network.modalities) != set(self.modalities):
                raise ValueError(f"one network has {', '.join(network.modalities)}, not {', '.join(self.modalities)}")
        self.networks = nn.ModuleList(networks)
        self.average = average
        self.head = nn.Identity()  # what is fused are predictions
        self._counts: dict[str, list[int]] = {}  # of maps that each network has of a modality

    def encode(
        self, inputs: Mapping[str, Tensor | Padded], present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Features]:
        """Each given modality's features, of all networks."""
        every: list[dict[str, Features]] = [network.encode(inputs, present) for network in self.networks]  # type: ignore[operator]
        features = {}
        for modality, first in every[0].items():
            own = [of[modality].maps for of in every]
            self._counts[modality] = [len(maps) for maps in own]
            features[modality] = first._replace(maps=tuple(x for maps in own for x in maps))
        return features

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """The logits of the mean."""
        logits = []
        for i, network in enumerate(self.networks):
            own = {}
            for modality, of in features.items():
                counts = self._counts[modality]
                start = sum(counts[:i])
                own[modality] = of._replace(maps=of.maps[start : start + counts[i]])
            logits.append(network.head(network.fuse(own)[0]))  # type: ignore[operator]
        return (self._mean(logits),)

    def forward(self, inputs: Mapping[str, Tensor | Padded]) -> Tensor:
        """Logits of the mean; one network at a time, so that only one holds its features."""
        return self._mean([network(inputs) for network in self.networks])

    def _mean(self, logits: Sequence[Tensor]) -> Tensor:
        together = torch.stack(list(logits))
        return self.average(together, torch.full(together.shape[:2], 1 / len(logits), device=together.device))
