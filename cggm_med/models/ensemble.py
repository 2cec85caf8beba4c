"""Several networks of one modality each as one multimodal network, which averages what they predict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from cggm_med.models.base import MultimodalModel
from cggm_med.objectives.activation import Average
from cggm_med.types import Features, Outputs, UnimodalOutput


class Ensemble(MultimodalModel):
    """One whole network for each modality; the prediction is the mean of theirs, over the modalities that are present.

    Nothing is shared and no gradient passes through the mean, so a network that has a loss of its own learns as if it
    were trained alone. Its gradient is clipped by itself (``clipped_together``).

    Args:
        networks: of one modality each.
        average: gives the logits of the mean, such as ``objectives.activation.average_classes``.

    Raises:
        ValueError: if a network has other modalities than its own.

    Example:
        >>> from cggm_med.models.late_fusion import LateFusionModel
        >>> from cggm_med.objectives.activation import average_classes
        >>> networks = {m: LateFusionModel({m: nn.Linear(2, 4)}, {m: 4}, targets=3) for m in ("audio", "text")}
        >>> Ensemble(networks, average_classes)({"text": torch.zeros(5, 2)}).shape
        torch.Size([5, 3])
    """

    def __init__(self, networks: Mapping[str, MultimodalModel], average: Average) -> None:
        super().__init__(tuple(networks))
        for modality, network in networks.items():
            if network.modalities != (modality,):
                raise ValueError(f"the network of {modality} has the modalities {', '.join(network.modalities)}")
        self.networks = nn.ModuleDict(dict(networks))
        self.average = average
        self.head = nn.Identity()  # what is fused are predictions

    @property
    def encoders(self) -> nn.ModuleDict:  # type: ignore[override]
        """Each network's encoder, for the base class; the networks own them."""
        return nn.ModuleDict({m: network.get_submodule(f"encoders.{m}") for m, network in self.networks.items()})

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """The logits of the mean."""
        return self.predict([features])[0].fused

    def predict(self, views: Sequence[Mapping[str, Features]]) -> list[Outputs]:
        """The mean of each view, with every network's own prediction as ``unimodal``."""
        return [self._predict(view) for view in views]

    def _predict(self, view: Mapping[str, Features]) -> Outputs:
        if not view:
            raise ValueError("no modality to predict from: give at least one of " + ", ".join(self.modalities))
        given = {m: view[m] for m in self.modalities if m in view}
        # Whether a sample has the modality decides about the mean, not about the network's own prediction.
        own = {m: self.networks[m].predict([{m: f._replace(present=None, rows=None)}])[0] for m, f in given.items()}  # type: ignore[operator]
        logits = torch.stack([outputs.logits for outputs in own.values()])
        everyone = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        present = torch.stack([everyone if f.present is None else f.present for f in given.values()])
        present = torch.where(present.any(0), present, True).float()  # a sample without any modality must stay finite
        mean = self.average(logits.detach(), present / present.sum(0))
        unimodal = {
            m: UnimodalOutput(x.fused[0], x.logits, deep_logits=x.deep_logits).of(given[m].rows) for m, x in own.items()
        }
        return Outputs(dict(view), (mean,), mean, (), unimodal)

    def head_input(self, modality: str, outputs: Outputs) -> Tensor:
        """Nothing, since no layer follows the mean: ``(batch, 0, ...)``."""
        return outputs.logits[:, :0]

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The modality's whole network."""
        return (self.networks[modality],)

    def clipped_together(self) -> Sequence[Sequence[Parameter]]:
        """Each network by itself."""
        return [list(network.parameters()) for network in self.networks.values()]
