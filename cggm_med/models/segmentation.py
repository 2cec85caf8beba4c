"""A 3-D U-Net with one encoder per modality, mask-aware fusion at every scale and one decoder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from cggm_med.models.base import MultimodalModel
from cggm_med.models.decoder import UNetDecoder
from cggm_med.models.encoders import Encoder, Steps, UNetEncoder
from cggm_med.models.fusion import Fusion, MaskedFusion
from cggm_med.models.heads import UnimodalHeads, VoxelwiseHead
from cggm_med.models.residual import ResidualOutput, beside, mean_of_heads, sum_in_order
from cggm_med.types import Features, Outputs, Padded


class SegmentationModel(MultimodalModel):
    """One 3-D encoder per modality, mask-aware fusion, the decoder of a U-Net, one head.

    With a fusion that is ``over_heads`` the network has classifier heads of its own, and its logits are the mean of
    those of the present modalities, brought to the grid by trilinear interpolation, plus the head's.

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
        from monai.networks.blocks import UnetOutBlock

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
        over_heads = self.fusion.over_heads
        output = ResidualOutput if over_heads else functools.partial(UnetOutBlock, 3)
        self.head = output(self.channels[0], regions)
        # The coarsest scale has too little detail to be worth a loss.
        coarser = self.channels[1:-1][:deep_scales] if deep_supervision else ()
        self.deep_heads = nn.ModuleList(output(c, regions) for c in coarser)
        if over_heads:  # last, so that all other weights are those of a network without
            self.heads = UnimodalHeads({m: VoxelwiseHead(self.channels, regions) for m in self.modalities})

    def forward(self, inputs: Mapping[str, Tensor | Padded]) -> Tensor:
        """Logits from any non-empty subset of the modalities.

        Gives the same numbers as encoding all modalities first, but each is encoded when the fusion takes it, so that
        they need not all be in memory.
        """
        order = sorted(inputs, key=(*self.modalities, *inputs).index)
        said: list[Tensor] = []

        def encoded() -> Iterator[tuple[str, Features]]:
            for m in order:
                features = self.encode({m: inputs[m]})[m]
                if self.heads is not None:
                    said.append(self.heads.logits(m, features))
                yield m, features
                del features  # before the next modality is encoded

        fused = self.decoder(self.fusion.fuse_in_turn(encoded()))
        return self.head(fused[0] if self.heads is None else beside(fused[0], sum_in_order(said) / len(said)))

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """Decoded maps, finest first, ``(batch, channel, x, y, z)`` each; those that a head reads may carry logits."""
        return self.fuse_views([features])[0]

    def fuse_views(self, views: Sequence[Mapping[str, Features]]) -> list[tuple[Tensor, ...]]:
        """Decoded maps of several views; see ``Fusion``."""
        decoded = [self.decoder(fused) for fused in self.fusion(views)]
        if self.heads is None:
            return decoded
        # Views are subsets of the same features, so every head is asked once.
        every = {m: view[m] for view in views for m in view}
        logits = {m: self.heads.logits(m, every[m]) for m in self.modalities if m in every}
        read = 1 + len(self.deep_heads)
        fused = []
        for view, maps in zip(views, decoded, strict=True):
            mean = mean_of_heads(logits, view)
            fused.append((*(beside(x, mean) for x in maps[:read]), *maps[read:]))
        return fused

    @torch.no_grad()
    def predict_at_first(self, logits: Tensor) -> None:
        """Set the biases of the last layers, so that a new network predicts about these logits everywhere.

        Args:
            logits: ``(region,)``.
        """
        for output in (self.head, *self.deep_heads):
            output.conv.conv.bias.copy_(logits if self.heads is None else torch.zeros_like(logits))
        if self.heads is not None:
            self.heads.predict_at_first(logits)

    def head_input(self, modality: str, outputs: Outputs) -> Tensor:
        """The decoder's maps."""
        maps = super().head_input(modality, outputs)
        return maps if self.heads is None else maps[:, : self.channels[0]]

    def deep_logits(self, fused: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Region logits at 1/2, 1/4, ... of the grid while training with deep supervision, otherwise none."""
        if not self.training:
            return ()
        return tuple(head(x) for head, x in zip(self.deep_heads, fused[1:], strict=False))

    def modality_modules(self, modality: str) -> Iterable[nn.Module]:
        """The encoder and the parts of the fusion that only this modality passes through."""
        return (*super().modality_modules(modality), *self.fusion.modality_modules(modality))
