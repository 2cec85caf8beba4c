"""A multimodal network with the interface of an ordinary one: one tensor in, one tensor out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cggm_med.errors import UnknownName
from cggm_med.models.base import MultimodalModel


class StackedModalities(nn.Module):
    """Lets software that knows nothing of modalities call a network with one image channel for each.

    A channel that holds NaN is absent, in evaluation. Traced or exported networks take complete images only.

    Args:
        model: the network.
        modalities: of the image's channels, in order; default: all modalities of the model. Others are absent.

    Raises:
        UnknownName: for a modality that the model does not have.

    Example:
        >>> import torch
        >>> from cggm_med.models.segmentation import SegmentationModel
        >>> model = SegmentationModel(["flair", "t1", "t1ce"], regions=3, channels=(4, 8))
        >>> StackedModalities(model, ["t1ce", "flair"])(torch.zeros(1, 2, 8, 8, 8)).shape
        torch.Size([1, 3, 8, 8, 8])
    """

    def __init__(self, model: MultimodalModel, modalities: Sequence[str] | None = None) -> None:
        super().__init__()
        self.model = model
        self.modalities = tuple(modalities or model.modalities)
        for modality in self.modalities:
            if modality not in model.modalities:
                raise UnknownName("modality in this model", modality, model.modalities)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(batch, target, x, y, z)`` from an image ``(batch, modality, x, y, z)``."""
        # What a trace follows must not depend on the numbers.
        traced = torch.jit.is_tracing() or torch.compiler.is_exporting()  # type: ignore[attr-defined]
        if self.training or traced:
            return self.model(self.split(image))
        present = ~image.isnan().flatten(2).any(2)
        if present.all():
            return self.model(self.split(image))
        held = dict(zip(self.modalities, present.cpu().unbind(1), strict=True))
        features = self.model.encode(self.split(image), held)
        logits: Tensor = self.model.head(self.model.fuse(features)[0])
        return logits

    def split(self, image: Tensor) -> dict[str, Tensor]:
        """Each modality's channel of an image, ``(batch, 1, x, y, z)``."""
        return {m: image[:, i : i + 1] for i, m in enumerate(self.modalities)}
