"""Fusion of 3-D feature maps: what every one keeps to, and the mean over the modalities that are present."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from cggm_med.errors import PluginError
from cggm_med.types import Features


class Fusion(nn.Module, ABC):
    """Makes one set of maps of those of the modalities that are present.

    A subclass writes ``fuse``. What only one modality passes through stands in an ``nn.ModuleDict`` whose keys are the
    modalities, so that balancing reaches it; what all of them share is named in ``shared``.

    Args:
        modalities: names, in their order.
        channels: of each scale, finest first; the fused maps have as many.

    Attributes:
        modalities: names, in their order.
        channels: of each scale, finest first.
        shared: names of the attributes that hold what belongs to no single modality.
    """

    shared: Sequence[str] = ()

    def __init__(self, modalities: Sequence[str], channels: Sequence[int]) -> None:
        super().__init__()
        self.modalities, self.channels = tuple(modalities), tuple(channels)

    @abstractmethod
    def fuse(self, maps: Mapping[str, Sequence[Tensor]], present: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Fused maps, finest first, as large as those of a modality. No sample may change another's.

        Args:
            maps: of the modalities that were given, at least one, in their order: ``(batch, channel, x, y, z)`` each,
                finest first, zeros in samples that lack the modality. Not to be changed in place.
            present: of the same modalities, ``(batch,)`` booleans: which samples have it. An absent modality must
                count as if it had not been given. What is made of a sample without any is replaced by zeros, but has
                to be finite.
        """

    def forward(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """Fused maps of each view, finest first.

        Views are selections of the same maps. A sample that lacks every modality has nothing to be fused and gets
        zeros.

        Args:
            views: features of the modalities to fuse; views differ in which there are, and in ``present``.

        Raises:
            ValueError: if a view has no modality.
        """
        return [self._fuse_view(view) for view in views]

    def fuse_in_turn(self, encoded: Iterable[tuple[str, Features]]) -> tuple[Tensor, ...]:
        """The same for one view, whose modalities are encoded while they are asked for, one after the other.

        A fusion that can let each go before it asks for the next saves memory; by default all are kept.
        """
        return self([dict(encoded)])[0]

    def modality_modules(self, modality: str) -> list[nn.Module]:
        """The parts that only this modality passes through."""
        by_modality = [x for x in self.modules() if isinstance(x, nn.ModuleDict) and set(x) == set(self.modalities)]
        return [parts[modality] for parts in by_modality]

    def require_owners(self) -> None:
        """Refuse parameters of which nobody said to whom they belong: balancing would silently pass them by.

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
            raise self._nothing()
        some = next(iter(given.values())).maps[0]
        everyone = torch.ones(len(some), dtype=torch.bool, device=some.device)
        maps = {m: tuple(_keep(x, f.present) for x in f.maps) for m, f in given.items()}
        fused = self.fuse(maps, {m: everyone if f.present is None else f.present for m, f in given.items()})
        masks = [f.present for f in given.values() if f.present is not None]
        anything = torch.stack(masks).any(0) if len(masks) == len(given) else None
        return tuple(_keep(x, anything) for x in fused)

    def _nothing(self) -> ValueError:
        return ValueError("no modality to fuse: give at least one of " + ", ".join(self.modalities))


class MaskedFusion(Fusion):
    """Mean over the present modalities of one 1x1x1 projection each, at every scale.

    With all modalities present this is the familiar concatenation followed by a 1x1x1 convolution, since a convolution
    of a concatenation is the sum of one convolution a modality. An absent modality adds nothing and is not counted,
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
            raise self._nothing()
        maps = {m: view[m].maps for m in self.projections for view in views if m in view}
        counts = [self._count(view) for view in views]
        fused: list[list[Tensor]] = [[] for _ in views]
        for scale in range(len(next(iter(maps.values())))):
            totals: list[Tensor | None] = [None] * len(views)
            for m in maps:
                projected = self.projections[m][scale](maps[m][scale])  # type: ignore[index]
                for i, view in enumerate(views):
                    if m not in view:
                        continue
                    part, total = _keep(projected, view[m].present), totals[i]
                    if total is None:
                        # The total is added to in place, to save memory, so no two views may begin with one tensor.
                        totals[i] = part.clone() if part is projected and len(views) > 1 else part
                    else:
                        total.add_(part)
            for found, total, count in zip(fused, totals, counts, strict=True):
                assert total is not None  # noqa: S101 - for the type checker; no view is empty
                found.append(total / count)
        return [tuple(found) for found in fused]

    def fuse_in_turn(self, encoded: Iterable[tuple[str, Features]]) -> tuple[Tensor, ...]:
        """See the base class; in memory are the sums and one modality's maps. No sample may lack a modality."""
        totals: list[Tensor] = []
        count = 0
        for modality, features in encoded:
            parts = [self.projections[modality][scale](x) for scale, x in enumerate(features.maps)]  # type: ignore[index]
            totals = [total.add_(part) for total, part in zip(totals, parts, strict=True)] if totals else parts
            count += 1
            del features, parts  # before the next modality is encoded
        if not totals:
            raise self._nothing()
        return tuple(total.div_(count) for total in totals)

    @staticmethod
    def _count(view: Mapping[str, Features]) -> int | Tensor:
        """How many modalities are present, for each sample if samples differ."""
        masks = [f.present for f in view.values() if f.present is not None]
        if not masks:
            return len(view)
        count = torch.stack(masks).sum(0) + (len(view) - len(masks))
        return count.clamp_min(1).view(-1, 1, 1, 1, 1)


def _keep(x: Tensor, present: Tensor | None) -> Tensor:
    """``(batch, channel, x, y, z)`` with zeros in the samples that lack it."""
    return x if present is None else torch.where(present.view(-1, 1, 1, 1, 1), x, 0)
