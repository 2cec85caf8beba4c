"""A network for classification and regression: fusion of one feature vector per modality, and a linear head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads, VectorHead
from cggm_med.types import Features, Outputs


class VectorFusion(nn.Module, ABC):
    """Fuses one vector per modality into one, which a linear head reads.

    The result is a sum or a concatenation over the modalities that are present. ``LateFusionModel`` rescales it for
    those that are absent.

    Args:
        widths: length of each modality's vector.

    Attributes:
        width: length of the fused vector.
    """

    width: int

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.widths = dict(widths)

    @abstractmethod
    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """The fused vector, ``(batch, width)``.

        Args:
            vectors: of the given modalities, ``(batch, width)`` each, zeros in samples that lack the modality.
            present: of the same modalities, ``(batch,)`` booleans.
        """

    def new_head(self, targets: int) -> nn.Linear:
        """A linear layer from the fused vector to the logits."""
        return nn.Linear(self.width, targets)

    def part(self, modality: str) -> slice | None:
        """The modality's slice of the fused vector; None where there is no such slice."""
        return None

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The parts of the fusion that only this modality passes through."""
        return ()


class ConcatFusion(VectorFusion):
    """The vectors side by side, with zeros for absent modalities."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__(widths)
        self.width = sum(self.widths.values())

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """See the base class."""
        some = next(iter(vectors.values()))
        parts = [vectors[m] if m in vectors else some.new_zeros(len(some), w) for m, w in self.widths.items()]
        return torch.cat(parts, dim=1)

    def part(self, modality: str) -> slice:
        """See the base class."""
        names = list(self.widths)
        start = sum(self.widths[m] for m in names[: names.index(modality)])
        return slice(start, start + self.widths[modality])


class SumFusion(ConcatFusion):
    """The sum of one linear layer per modality: ``sum_m (W_m h_m + b_m)``, sum fusion in OGM.

    Since ``[W_1 ... W_M] [h_1; ...; h_M]`` is the same sum, this is concatenation with another initialisation: each
    ``W_m`` and ``b_m`` is drawn as a layer of its own width, so that weights start larger by the root of (all widths /
    its own). One ``b`` replaces the sum of the ``b_m``, which cannot be told apart. Every strategy treats both alike.
    """

    def new_head(self, targets: int) -> nn.Linear:
        """See the base class."""
        head = super().new_head(targets)
        layers = [nn.Linear(width, targets) for width in self.widths.values()]
        with torch.no_grad():
            head.weight.copy_(torch.cat([layer.weight for layer in layers], dim=1))
            head.bias.copy_(torch.stack([layer.bias for layer in layers]).sum(0))
        return head


class GatedFusion(VectorFusion):
    """Each modality gated by the others: ``sum_m sigmoid(mean of the other u_k) u_m``, with ``u_m = P_m h_m + p_m``.

    OGM, after Kiela et al. (AAAI 2018, https://arxiv.org/abs/1802.02892), has ``sigmoid(u_1) u_2``: two modalities with
    different roles. Here each has both roles, so that neither their order nor their number matters. Only modalities
    that are present gate and are gated; the gate of a single one is half open, ``sigmoid(0)``.

    A modality's effect on the logits depends on the others, so strategies score it by its classifier head.

    Args:
        widths: length of each modality's vector.
        width: length of every ``u_m`` and of the fused vector; default: that of the longest vector.
    """

    def __init__(self, widths: Mapping[str, int], width: int | None = None) -> None:
        super().__init__(widths)
        self.width = width or max(self.widths.values())
        self.projections = nn.ModuleDict({m: nn.Linear(own, self.width) for m, own in self.widths.items()})

    def forward(self, vectors: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """See the base class."""
        known = torch.stack([present[m] for m in vectors], dim=1)[..., None]
        projected = torch.stack([self.projections[m](x) for m, x in vectors.items()], dim=1)
        # The vectors are zero where a modality is absent, but a projection has a bias.
        projected = torch.where(known, projected, 0)  # (batch, modality, channel)
        others = 1 - torch.eye(len(vectors), dtype=projected.dtype, device=projected.device)
        gates = torch.sigmoid(others @ projected / (others @ known.to(projected.dtype)).clamp_min(1))
        return (gates * projected).sum(dim=1)

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The modality's projection."""
        return (self.projections[modality],)


FUSIONS: Mapping[str, Callable[[Mapping[str, int]], VectorFusion]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "gated": GatedFusion,
}


class LateFusionModel(MultimodalModel):
    """One encoder per modality, fusion of their vectors, one linear head.

    With concatenation and sum, the logits are ``sum_m W_m h_m + b``, where ``W_m`` is the head's slice for modality m.
    Where modalities are absent, the others are fused and scaled by (all modalities / present ones), so that the head
    sees the scale that it was trained on, as with inverted dropout.

    Args:
        encoders: each maps its input to ``(batch, width)``.
        widths: length of each modality's feature vector.
        targets: number of classes or values.
        fusion: constructs the fusion from the widths, such as an entry of ``FUSIONS``.

    Example:
        >>> model = LateFusionModel({m: nn.Linear(2, 4) for m in ("audio", "text")}, {"audio": 4, "text": 4}, targets=3)
        >>> model({"text": torch.zeros(5, 2)}).shape
        torch.Size([5, 3])
    """

    head: nn.Linear

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        widths: Mapping[str, int],
        targets: int,
        fusion: Callable[[Mapping[str, int]], VectorFusion] = ConcatFusion,
    ) -> None:
        super().__init__(tuple(encoders))
        self.encoders = nn.ModuleDict(dict(encoders))
        self.fusion = fusion({m: widths[m] for m in self.modalities})
        self.head = self.fusion.new_head(targets)

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """The fused vector, ``(batch, width of the fusion)``.

        Raises:
            ValueError: if no modality is given.
        """
        given = {m: features[m] for m in self.modalities if m in features}
        if not given:
            raise ValueError("no modality to fuse: give at least one of " + ", ".join(self.modalities))
        some = next(iter(given.values())).maps[-1]
        everyone = torch.ones(len(some), dtype=torch.bool, device=some.device)
        present = {m: everyone if f.present is None else f.present for m, f in given.items()}
        vectors = {m: torch.where(present[m][:, None], f.maps[-1], 0) for m, f in given.items()}
        count = torch.stack(list(present.values())).sum(0).clamp_min(1)
        scale = len(self.modalities) / count.to(torch.promote_types(some.dtype, torch.float32))
        return (self.fusion(vectors, present) * scale[:, None],)

    def linear_shares(self, features: Mapping[str, Features]) -> dict[str, Tensor] | None:
        """``W_m h_m + b / M``, whose sum over all modalities is the logits; None if the fusion mixes modalities."""
        if any(self.fusion.part(m) is None for m in self.modalities):
            return None
        bias = self.head.bias / len(self.modalities)
        return {
            m: nn.functional.linear(f.maps[-1], self.head_weight(m), bias.to(f.maps[-1].dtype))
            for m, f in features.items()
        }

    def head_input(self, modality: str, outputs: Outputs) -> Tensor:
        """The slice of the fused vector that is this modality's; all of it where there is no such slice."""
        part = self.fusion.part(modality)
        return super().head_input(modality, outputs) if part is None else outputs.fused[0][:, part]

    def head_weight(self, modality: str) -> Tensor:
        """The slice of the head's weight that is this modality's; all of it where there is no such slice."""
        part = self.fusion.part(modality)
        return self.head.weight if part is None else self.head.weight[:, part]

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The modality's encoder, and its own part of the fusion."""
        return (*super().modality_modules(modality), *self.fusion.modality_modules(modality))


def vector_heads(model: MultimodalModel, targets: int) -> UnimodalHeads:
    """A linear classifier head on each vector of a ``LateFusionModel``.

    Raises:
        TypeError: for another model.
    """
    if not isinstance(model, LateFusionModel):
        raise TypeError(f"{type(model).__name__} does not fuse vectors; expected a LateFusionModel")
    return UnimodalHeads({m: VectorHead(width, targets) for m, width in model.fusion.widths.items()})
