"""A 3-D U-Net with one encoder per modality, mask-aware fusion at every scale and one decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from monai.networks.blocks import UnetOutBlock
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.models.decoder import UNetDecoder
from cggm_med.models.encoders import Encoder, Steps, UNetEncoder
from cggm_med.models.fusion import Fusion, MaskedFusion
from cggm_med.types import Features, Padded


class SegmentationModel(MultimodalModel):
    """One 3-D encoder per modality, mask-aware fusion, the decoder of a U-Net, one head.

    Args:
        modalities: names of the modalities.
        regions: number of overlapping regions to segment, one sigmoid channel each.
        channels: feature channels of each scale, finest first.
        deep_supervision: also predict from the coarser decoder scales while training.
        encoder: constructs an encoder from the channels.
        fusion: constructs the fusion from the modalities and the channels that the encoder declares.
        decoder_kernels: width of the decoder's convolutions at each scale; default: 3.
        deep_scales: number of coarser scales that predict; default: all but the coarsest.

    Attributes:
        channels: feature channels of each scale, finest first, as the encoder declares them.

    Raises:
        ValueError: if there are fewer than two scales.
        PluginError: if the fusion does not say to which modality its parameters belong.

    Example:
        >>> import torch
        >>> model = SegmentationModel(["flair", "t1ce"], regions=3, channels=(4, 8))
        >>> model({"flair": torch.zeros(1, 1, 8, 8, 8)}).shape
        torch.Size([1, 3, 8, 8, 8])
    """

    fusion: Fusion

    def __init__(
        self,
        modalities: Sequence[str],
        regions: int,
        channels: Sequence[int],
        deep_supervision: bool = False,
        *,
        encoder: Callable[[Sequence[int]], Encoder] = UNetEncoder,
        fusion: Callable[[Sequence[str], Sequence[int]], Fusion] = MaskedFusion,
        decoder_kernels: Steps | None = None,
        deep_scales: int | None = None,
    ) -> None:
        super().__init__(modalities)
        if len(channels) < 2:
            raise ValueError(f"a U-Net needs at least 2 scales, {len(channels)} given")
        encoders = {m: encoder(channels) for m in self.modalities}
        self.encoders = nn.ModuleDict(encoders)
        first = encoders[self.modalities[0]]
        self.channels = first.channels
        self.fusion = fusion(self.modalities, self.channels)
        self.fusion.require_owners()
        self.decoder = UNetDecoder(self.channels, first.strides, decoder_kernels)
        self.head = UnetOutBlock(3, self.channels[0], regions)
        # The coarsest scale has too little detail to be worth a loss.
        coarser = self.channels[1:-1][:deep_scales] if deep_supervision else ()
        self.deep_heads = nn.ModuleList(UnetOutBlock(3, c, regions) for c in coarser)

    def forward(self, inputs: Mapping[str, Tensor | Padded]) -> Tensor:
        """Logits from any non-empty subset of the modalities.

        Gives the same numbers as encoding all modalities first, but each is encoded when the fusion takes it, so that
        they need not all be in memory.
        """
        order = sorted(inputs, key=(*self.modalities, *inputs).index)
        fused = self.fusion.fuse_in_turn((m, self.encode({m: inputs[m]})[m]) for m in order)
        return self.head(self.decoder(fused)[0])

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """Decoded maps, finest first, ``(batch, channel, x, y, z)`` each."""
        return self.fuse_views([features])[0]

    def fuse_views(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """Decoded maps of several views; see ``Fusion``."""
        return [self.decoder(fused) for fused in self.fusion(views)]

    def deep_logits(self, fused: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Region logits at 1/2, 1/4, ... of the grid while training with deep supervision, otherwise none."""
        if not self.training:
            return ()
        return tuple(head(x) for head, x in zip(self.deep_heads, fused[1:], strict=False))

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The encoder and the parts of the fusion that only this modality passes through."""
        return (*super().modality_modules(modality), *self.fusion.modality_modules(modality))
