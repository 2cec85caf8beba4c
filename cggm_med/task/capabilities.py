"""What a task may offer besides training and scoring, so that finished runs of it can be asked more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cggm_med.metrics.labels import LabelMetric
from cggm_med.types import Batch


@dataclass(frozen=True)
class LabelledSamples:
    """Cases that carry a label, or one for each of their parts, such as the utterances of a conversation.

    With this a run can be probed, and calibrated if its labels are classes. The network's logits are
    ``(batch, class)``, ``(batch, class, part)`` or, of a value, ``(batch, 1)``.

    Attributes:
        labels: ``classes``, numbered as the task's ``targets``, or ``values``.
        metrics: what predictions are scored by, by name; the task's ``chosen_by`` is among them.
        batches: these cases in their order, without augmentation, on the CPU; the target of a part that is padding is
            ``IGNORED``.
        group: what a case must not be divided from when cases are split, see ``Task.group_kind``.
    """

    labels: Literal["classes", "values"]
    metrics: Mapping[str, LabelMetric]
    batches: Callable[[Sequence[str]], Iterable[Batch]]
    group: Callable[[str], str]
