"""The contract of a multimodal network: encode each modality, fuse, predict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from cggm_med.errors import UnknownName
from cggm_med.models.heads import UnimodalHeads
from cggm_med.types import Features, Outputs, Padded


class MultimodalModel(nn.Module, ABC):
    """A network with one encoder per modality.

    A subclass sets ``encoders`` (keyed by modality; each maps its input to a tuple of maps, finest first, or to a
    single map) and ``head`` (maps the finest fused features to logits), and implements ``fuse``. A subclass whose head
    is linear in the concatenated features also implements ``linear_shares``, each modality's share of the logits.

    Attributes:
        modalities: names, in the order in which features are summed.
        encoders: one encoder per modality.
        head: last layer; reads ``fused[0]``; has one weight, whose first axis is the target.
        heads: classifier heads on each modality's features, where the prediction builds on them; otherwise None, and
            only the strategy may have any.
    """

    encoders: nn.ModuleDict
    head: nn.Module
    heads: UnimodalHeads | None
    if TYPE_CHECKING:
        __call__: Callable[..., Tensor]  # torch says Any

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.register_module("heads", None)

    def encode(
        self, inputs: Mapping[str, Tensor | Padded], present: Mapping[str, Tensor] | None = None
    ) -> dict[str, Features]:
        """Each given modality's features. A modality that is not given is absent: nothing takes its place.

        A modality that no sample has is not encoded, as if it were not given. Where some samples lack it, zeros are
        encoded for them and nobody reads the result; an encoder whose normalisation mixes samples (batch
        normalisation) is no encoder for incomplete data.

        Args:
            inputs: by modality, ``(batch, ...)``.
            present: which samples have a modality, ``(batch,)`` booleans by modality, on the CPU; all samples have
                those that are not named. Default: all have all.

        Raises:
            UnknownName: for a modality that the model has no encoder for.
        """
        for modality in inputs:
            if modality not in self.modalities:
                raise UnknownName("modality in this model", modality, self.modalities)
        features = {}
        for modality in (m for m in self.modalities if m in inputs):
            x = inputs[modality]
            has, rows = None if present is None else present.get(modality), None
            if has is not None and not has.any():
                continue
            if has is not None and not has.all():
                device = (x.values if isinstance(x, Padded) else x).device
                rows = has.nonzero()[:, 0].to(device, non_blocking=True)
                has = has.to(device, non_blocking=True)
                x = Padded(_zero_absent(x.values, has), x.valid) if isinstance(x, Padded) else _zero_absent(x, has)
            maps = self.encoders[modality](x)
            features[modality] = Features(
                maps if isinstance(maps, tuple) else (maps,),
                present=None if rows is None else has,
                valid=x.valid if isinstance(x, Padded) else None,
                rows=rows,
            )
        return features

    @abstractmethod
    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """One set of maps, finest first, from the features of the modalities that are present."""

    def deep_logits(self, fused: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Predictions from the coarser fused maps, for deep supervision; none by default."""
        return ()

    def fuse_views(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """Fuse several subsets of the same features; a model may share work between them."""
        return [self.fuse(view) for view in views]

    def predict(self, views: Sequence[Mapping[str, Features]]) -> list[Outputs]:
        """Fuse each of several subsets of the same features, and predict from it."""
        return [
            Outputs(dict(view), fused, self.head(fused[0]), self.deep_logits(fused))
            for view, fused in zip(views, self.fuse_views(views), strict=True)
        ]

    def forward(self, inputs: Mapping[str, Tensor | Padded]) -> Tensor:
        """Logits from any non-empty subset of the modalities."""
        return self.head(self.fuse(self.encode(inputs))[0])

    def linear_shares(self, features: Mapping[str, Features]) -> dict[str, Tensor] | None:
        """Each modality's summand of the logits, if they are a sum over modalities; otherwise None."""
        return None

    def head_input(self, modality: str, outputs: Outputs) -> Tensor:
        """The part of the head's input that comes from this modality; all of it where the parts are not separate."""
        return outputs.fused[0]

    def head_weight(self, modality: str) -> Tensor:
        """The head's weight on ``head_input``, ``(target, channel)``."""
        return next(p for p in self.head.parameters() if p.ndim > 1).flatten(1)

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The parts of the network that only this modality passes through."""
        return (self.encoders[modality],)

    def modality_parameters(self, modality: str) -> list[Parameter]:
        """The parameters that only this modality trains: the only way in which a strategy finds an encoder.

        Raises:
            UnknownName: if the model has no such modality.
            ValueError: if the modality has no trainable parameter, so that balancing it would silently do nothing.
        """
        if modality not in self.modalities:
            raise UnknownName("modality in this model", modality, self.modalities)
        modules = self.modality_modules(modality)
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError(f"modality '{modality}' matches no trainable parameter; balancing it would do nothing")
        return parameters

    def clipped_together(self) -> Sequence[Sequence[Parameter]]:
        """Groups of all parameters, by whose norms gradients are clipped: one group, unless networks are separate."""
        return [list(self.parameters())]

    def modality_gradients(self, modality: str) -> list[Tensor]:
        """The gradients of those ``modality_parameters`` that have one."""
        return [p.grad for p in self.modality_parameters(modality) if p.grad is not None]


def _zero_absent(x: Tensor, present: Tensor) -> Tensor:
    """An input ``(batch, ...)`` with zeros in the samples that lack the modality."""
    return torch.where(present.view(-1, *[1] * (x.ndim - 1)), x, 0)
