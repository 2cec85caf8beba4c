"""Fusion of 3-D feature maps: the base class, and the mean over the modalities that are present."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from cggm_med.errors import PluginError
from cggm_med.types import Features


class Fusion(nn.Module, ABC):
    """Fuses the feature maps of the modalities that are present into one set of maps.

    A subclass implements ``fuse``. Modules that only one modality passes through belong in an ``nn.ModuleDict`` keyed
    by modality, so that balancing reaches them; attributes with parameters of no single modality are listed in
    ``shared``.

    Args:
        modalities: names, in order.
        channels: of each scale, finest first; the fused maps have as many.

    Attributes:
        modalities: names, in order.
        channels: of each scale, finest first.
        shared: names of the attributes whose parameters belong to no single modality.
        over_heads: whether what the network makes of the fused maps is added to the mean of the classifier heads'
            logits, see ``models.residual``.
    """

    shared: Sequence[str] = ()
    over_heads: ClassVar[bool] = False

    def __init__(self, modalities: Sequence[str], channels: Sequence[int]) -> None:
        super().__init__()
        self.modalities, self.channels = tuple(modalities), tuple(channels)

    @abstractmethod
    def fuse(self, maps: Mapping[str, Sequence[Tensor]], present: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Fused maps, finest first, as large as those of a modality. Samples must not influence each other.

        Args:
            maps: of the given modalities, at least one, in order: ``(batch, channel, x, y, z)`` each, finest first,
                zeros in samples that lack the modality. Must not be changed in place.
            present: of the same modalities, ``(batch,)`` booleans: which samples have it. An absent modality must
                count as if it had not been given. The result for a sample without any modality is replaced by zeros,
                but has to be finite.
        """

    def forward(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """Fused maps of each view, finest first.

        Views are subsets of the same maps. A sample that lacks every modality gets zeros.

        Args:
            views: features of the modalities to fuse; views differ in their modalities and in ``present``.

        Raises:
            ValueError: if a view has no modality.
        """
        return [self._fuse_view(view) for view in views]

    def fuse_in_turn(self, encoded: Iterable[tuple[str, Features]]) -> tuple[Tensor, ...]:
        """Fused maps of one view, whose modalities are encoded on demand, one after the other.

        A fusion that releases each modality before it takes the next saves memory; by default all are kept.
        """
        return self([dict(encoded)])[0]

    def modality_modules(self, modality: str) -> list[nn.Module]:
        """The parts that only this modality passes through."""
        dicts = [d for d in self.modules() if isinstance(d, nn.ModuleDict) and set(d) == set(self.modalities)]
        return [parts[modality] for parts in dicts]

    def require_owners(self) -> None:
        """Refuse parameters that are neither a modality's nor shared: balancing would silently ignore them.

        Raises:
            PluginError: names them.
        """
        owned = {p for m in self.modalities for module in self.modality_modules(m) for p in module.parameters()}
        stray = [n for n, p in self.named_parameters() if p not in owned and n.split(".")[0] not in self.shared]
        if stray:
            raise PluginError(
                f"{type(self).__name__} does not say to which modality {', '.join(stray)} belongs; hold it in an "
                f"nn.ModuleDict with the keys {', '.join(self.modalities)}, or name it in 'shared'"
            )

    def _fuse_view(self, view: Mapping[str, Features]) -> tuple[Tensor, ...]:
        given = {m: view[m] for m in self.modalities if m in view}
        if not given:
            raise self._nothing_to_fuse()
        some = next(iter(given.values())).maps[0]
        everyone = torch.ones(len(some), dtype=torch.bool, device=some.device)
        maps = {m: tuple(zero_absent(x, f.present) for x in f.maps) for m, f in given.items()}
        fused = self.fuse(maps, {m: everyone if f.present is None else f.present for m, f in given.items()})
        masks = [f.present for f in given.values() if f.present is not None]
        anything = torch.stack(masks).any(0) if len(masks) == len(given) else None
        return tuple(zero_absent(x, anything) for x in fused)

    def _nothing_to_fuse(self) -> ValueError:
        return ValueError("no modality to fuse: give at least one of " + ", ".join(self.modalities))


class MaskedFusion(Fusion):
    """Mean over the present modalities of one 1x1x1 projection each, at every scale.

    With all modalities present this is the familiar concatenation followed by a 1x1x1 convolution, since a convolution
    of a concatenation is the sum of one convolution per modality. An absent modality adds nothing and is not counted,
    so leaving it out equals never having loaded it, bit for bit (unlike a block of zeros, which the biases and
    the normalisation of an encoder turn into features).

    Args:
        modalities: names, in the order of summation.
        channels: feature channels of each scale.
    """

    def __init__(self, modalities: Sequence[str], channels: Sequence[int]) -> None:
        super().__init__(modalities, channels)
        self.projections = nn.ModuleDict(
            {m: nn.ModuleList(nn.Conv3d(c, c, kernel_size=1) for c in channels) for m in modalities}
        )

    def fuse(self, maps: Mapping[str, Sequence[Tensor]], present: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """See the base class."""
        return self([{m: Features(tuple(x), present[m]) for m, x in maps.items()}])[0]

    def forward(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """See the base class; every map is projected once for all views."""
        if not all(views):
            raise self._nothing_to_fuse()
        maps = {m: view[m].maps for m in self.projections for view in views if m in view}
        counts = [count_present(view) for view in views]
        fused: list[list[Tensor]] = [[] for _ in views]
        for scale in range(len(next(iter(maps.values())))):
            totals: list[Tensor | None] = [None] * len(views)
            for m in maps:
                projected = self.projections[m][scale](maps[m][scale])  # type: ignore[index]
                for i, view in enumerate(views):
                    if m not in view:
                        continue
                    part, total = zero_absent(projected, view[m].present), totals[i]
                    if total is None:
                        # The total is added to in place, to save memory, so views must not start with the same tensor.
                        totals[i] = part.clone() if part is projected and len(views) > 1 else part
                    else:
                        total.add_(part)
            for maps_of_view, total, count in zip(fused, totals, counts, strict=True):
                assert total is not None  # noqa: S101 - for the type checker; no view is empty
                maps_of_view.append(total / count)
        return [tuple(maps_of_view) for maps_of_view in fused]

    def fuse_in_turn(self, encoded: Iterable[tuple[str, Features]]) -> tuple[Tensor, ...]:
        """See the base class; keeps the sums and one modality's maps. No sample may lack a modality."""
        totals: list[Tensor] = []
        count = 0
        for modality, features in encoded:
            parts = [self.projections[modality][scale](x) for scale, x in enumerate(features.maps)]  # type: ignore[index]
            totals = [total.add_(part) for total, part in zip(totals, parts, strict=True)] if totals else parts
            count += 1
            del features, parts  # before the next modality is encoded
        if not totals:
            raise self._nothing_to_fuse()
        return tuple(total.div_(count) for total in totals)


class ResidualFusion(MaskedFusion):
    """The same mean of features; the decoder then adds to the mean of the classifier heads' logits."""

    over_heads = True


class PresenceFusion(MaskedFusion):
    """The same mean, scaled and shifted channel by channel by which modalities are absent.

    ``maps * (1 + sum_m scale_m) + sum_m shift_m`` over the absent modalities: feature-wise linear modulation (FiLM,
    Perez et al., AAAI 2018, https://arxiv.org/abs/1709.07871), whose numbers, of each modality and at each scale, start
    at 0. So it starts as the masked mean, and stays that where nothing is absent.

    Args:
        modalities: names, in the order of summation.
        channels: feature channels of each scale.
    """

    shared = ("effects",)

    def __init__(self, modalities: Sequence[str], channels: Sequence[int]) -> None:
        super().__init__(modalities, channels)
        # Of a modality's absence: shared, since they learn where it is absent.
        self.effects = nn.ParameterList(torch.zeros(len(modalities), 2, c) for c in channels)

    def forward(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """See the base class."""
        fused = super().forward(views)
        return [
            self._modulate(maps, {m: f.present for m, f in view.items()})
            for maps, view in zip(fused, views, strict=True)
        ]

    def fuse_in_turn(self, encoded: Iterable[tuple[str, Features]]) -> tuple[Tensor, ...]:
        """See the base class."""
        given: dict[str, Tensor | None] = {}

        def noted() -> Iterator[tuple[str, Features]]:
            for modality, features in encoded:
                given[modality] = None
                yield modality, features
                del features  # before the next modality is encoded

        return self._modulate(super().fuse_in_turn(noted()), given)

    def _modulate(self, maps: tuple[Tensor, ...], given: Mapping[str, Tensor | None]) -> tuple[Tensor, ...]:
        """Scale and shift.

        Args:
            maps: fused, finest first.
            given: by modality, which samples have it; None: all. Modalities that are not named are absent.
        """
        everyone = torch.ones(len(maps[0]), dtype=torch.bool, device=maps[0].device)
        absent = [~everyone if p is None else ~p for p in (given.get(m, ~everyone) for m in self.modalities)]
        anything = ~torch.stack(absent).all(0)
        modulated = []
        for x, effects in zip(maps, self.effects, strict=True):
            # One by one: the last digits of a matrix product depend on how many samples there are.
            total = torch.zeros(len(x), *effects.shape[1:], dtype=effects.dtype, device=x.device)
            for missing, effect in zip(absent, effects, strict=True):
                total = total + torch.where(missing[:, None, None], effect, 0)
            scale, shift = total.to(x.dtype)[..., None, None, None].unbind(1)
            modulated.append(zero_absent(torch.addcmul(shift, x, 1 + scale), anything))
        return tuple(modulated)


class PresenceResidualFusion(PresenceFusion):
    """``PresenceFusion``, and the decoder adds to the mean of the classifier heads' logits."""

    over_heads = True


def count_present(view: Mapping[str, Features]) -> int | Tensor:
    """Number of modalities present, at least 1; ``(batch, 1, 1, 1, 1)`` if samples differ."""
    masks = [f.present for f in view.values() if f.present is not None]
    if not masks:
        return len(view)
    count = torch.stack(masks).sum(0) + (len(view) - len(masks))
    return count.clamp_min(1).view(-1, 1, 1, 1, 1)


def zero_absent(maps: Tensor, present: Tensor | None) -> Tensor:
    """Maps ``(batch, channel, x, y, z)`` with zeros in the samples that lack the modality."""
    return maps if present is None else torch.where(present.view(-1, 1, 1, 1, 1), maps, 0)
