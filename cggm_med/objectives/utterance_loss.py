"""The training loss of utterances in conversations: cross-entropy, or focal loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cggm_med.objectives.targets import IGNORED


class UtteranceLoss(nn.Module):
    """Cross-entropy of the utterances of conversations, or focal loss ``(1 - p)^gamma * cross-entropy``.

    Focal loss: Lin et al., ICCV 2017, with p the softmax probability of the true class.

    The sum over utterances is divided by (dialogues in the batch x a constant). Divided by the utterances of its batch,
    as is usual, an utterance would weigh more in a batch of short dialogues; and the mean over processes, or over equal
    parts of a batch, would not be the loss of the whole batch, since they have different numbers of utterances.

    Args:
        mean_length: mean number of utterances of a training dialogue, so that the loss has the size of a mean.
        class_weights: one factor for each class. They are not normalised: let their mean over the training utterances
            be 1, such as ``1 / (classes x frequency)``.
        gamma: 0 for cross-entropy; 2 and 2.5 are usual for focal loss.

    Raises:
        ValueError: if ``mean_length`` is not positive, or ``gamma`` lies between 0 and 1, where the gradient of an
            utterance that is predicted with certainty is infinite, or below.

    Example:
        >>> logits = torch.zeros(1, 4, 2)
        >>> UtteranceLoss(mean_length=2.0)(logits, torch.tensor([[3, IGNORED]]))  # ln(4) / 2
        tensor(0.6931)
    """

    class_weights: Tensor | None

    def __init__(self, mean_length: float, class_weights: Sequence[float] | None = None, gamma: float = 0.0) -> None:
        super().__init__()
        if not 0 < mean_length < float("inf"):
            raise ValueError(f"mean_length is {mean_length}, expected the mean number of utterances of a dialogue")
        if gamma != 0 and not 1 <= gamma < float("inf"):
            raise ValueError(f"gamma is {gamma}, expected 0 or at least 1")
        self.mean_length = mean_length
        self.gamma = gamma
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss in float32.

        Args:
            logits: ``(dialogue, class, utterance)``.
            target: ``(dialogue, utterance)`` class numbers, ``IGNORED`` after a dialogue's end.
        """
        loss = F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="none")
        if self.gamma:
            loss = (-torch.expm1(-loss)) ** self.gamma * loss
        if self.class_weights is not None:
            loss = loss * self.class_weights[target.clamp_min(0)]
        return loss.sum() / (len(target) * self.mean_length)
