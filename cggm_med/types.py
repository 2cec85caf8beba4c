"""The shared data types that data, models, strategies and training exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor


class Padded(NamedTuple):
    """Sequences of different lengths as one tensor.

    Attributes:
        values: ``(batch, time, channel)``, zeros after each sequence's end.
        valid: ``(batch, time)`` booleans, False after each sequence's end.
    """

    values: Tensor
    valid: Tensor


class Features(NamedTuple):
    """The output of one modality's encoder.

    Attributes:
        maps: feature maps, finest first: ``(batch, channel, x, y, z)`` for volumes, ``(batch, channel, time)`` for
            sequences, ``(batch, channel)`` for vectors.
        present: ``(batch,)`` booleans, False where this sample lacks the modality or the fusion is to do without it;
            None where no sample does.
        valid: ``(batch, time)`` booleans, False after a sequence's end; None where nothing is padded.
        rows: numbers of the samples that have the modality, in order; what the maps hold of the others means nothing.
            None where all have it.
    """

    maps: tuple[Tensor, ...]
    present: Tensor | None = None
    valid: Tensor | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Samples to train on.

    Attributes:
        inputs: by modality, such as ``(batch, 1, x, y, z)``, or sequences.
        target: what to learn, such as ``(batch, region, x, y, z)`` with values 0 and 1.
        ids: the case of each sample.
        present: which samples have a modality, ``(batch,)`` booleans by modality, for every modality of the run; what
            ``inputs`` hold of the others is never looked at. None where no case of the data lacks any. Always on the
            CPU, where it is decided what to compute, so that no device has to be waited for.
    """

    inputs: Mapping[str, Tensor | Padded]
    target: Tensor
    ids: tuple[str, ...]
    present: Mapping[str, Tensor] | None = None

    @property
    def counts(self) -> dict[str, int] | None:
        """How many samples have each modality; None where no case of the data lacks any.

        Example:
            >>> batch = Batch({}, torch.zeros(2), ("a", "b"), {"t1": torch.tensor([True, False])})
            >>> batch.counts
            {'t1': 1}
        """
        return None if self.present is None else {m: int(has.sum()) for m, has in self.present.items()}

    def split(self, parts: int) -> tuple[Batch, ...]:
        """The same samples in equal parts, for gradient accumulation.

        Raises:
            ValueError: if the samples cannot be divided equally.
        """
        if parts == 1:
            return (self,)
        size, rest = divmod(len(self.target), parts)
        if rest or not size:
            raise ValueError(f"{len(self.target)} samples cannot be split into {parts} equal parts")
        slices = [slice(start, start + size) for start in range(0, len(self.target), size)]
        return tuple(self._part(s) for s in slices)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which a GPU copies it without making the CPU wait."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The same batch on ``device``."""
        return self._map(lambda x: x.to(device, non_blocking=True))

    def _part(self, rows: slice) -> Batch:
        present = None if self.present is None else {m: has[rows] for m, has in self.present.items()}
        return replace(self._map(lambda x: x[rows]), ids=self.ids[rows], present=present)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        inputs = {
            m: Padded(change(x.values), change(x.valid)) if isinstance(x, Padded) else change(x)
            for m, x in self.inputs.items()
        }
        return Batch(inputs, change(self.target), self.ids, self.present)


class UnimodalOutput(NamedTuple):
    """The output of one modality's classifier head.

    Attributes:
        hidden: input of the head's last layer, ``(batch, channel, ...)``.
        logits: the prediction, ``(batch, target, ...)``.
        rows: numbers of the samples that have the modality, if not all do; ``hidden`` and ``logits`` are of these.
        deep_logits: predictions at coarser scales, where a whole network is behind them that has deep supervision.
    """

    hidden: Tensor
    logits: Tensor
    rows: Tensor | None = None
    deep_logits: tuple[Tensor, ...] = ()

    def of(self, rows: Tensor | None) -> UnimodalOutput:
        """The part of a whole batch's output that belongs to the samples of these numbers; all of it for None."""
        if rows is None:
            return self
        return UnimodalOutput(self.hidden[rows], self.logits[rows], rows, tuple(x[rows] for x in self.deep_logits))

    def target(self, target: Tensor) -> Tensor:
        """The part of a batch's target that ``logits`` predict."""
        return target if self.rows is None else target[self.rows]


@dataclass(frozen=True)
class Outputs:
    """The output of a model in one step.

    Attributes:
        features: of each present modality, also of those that were left out of the fusion.
        fused: the features after fusion and decoder, finest first; the head reads ``fused[0]``.
        logits: the prediction before the sigmoid or softmax.
        deep_logits: predictions at coarser scales, for deep supervision; empty without it.
        unimodal: each present modality's own prediction; empty without classifier heads.
    """

    features: dict[str, Features]
    fused: tuple[Tensor, ...]
    logits: Tensor
    deep_logits: tuple[Tensor, ...] = ()
    unimodal: dict[str, UnimodalOutput] = field(default_factory=dict)
