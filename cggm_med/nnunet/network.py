"""The multimodal network that an nnU-Net plan describes: its depth, widths, kernels and strides, one encoder each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from cggm_med.errors import ConfigError, DataError
from cggm_med.models.decoder import UNetDecoder
from cggm_med.models.encoders import Encoder, UNetEncoder
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.models.sliding_window import require_finite
from cggm_med.models.stacked import StackedModalities

NEGATIVE_SLOPE = 0.01  # of the leaky rectifier, which decides how large initial weights should be


class PlannedNetwork(StackedModalities):
    """One image with a channel for each modality in; logits out, or a list of them, finest first.

    Args:
        model: the network.

    Attributes:
        deep_supervision: whether to give the logits of the coarser scales too.
        may_lack: whether a channel of NaN is an absent modality when predicting; otherwise it is refused.

    Example:
        >>> model = SegmentationModel(["flair", "t1"], regions=3, channels=(4, 8, 8), deep_supervision=True)
        >>> [tuple(x.shape[2:]) for x in PlannedNetwork(model)(torch.zeros(1, 2, 16, 16, 16))]
        [(16, 16, 16), (8, 8, 8)]
    """

    model: SegmentationModel

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__(model)
        self.deep_supervision = True
        self.may_lack = False

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:  # type: ignore[override]
        """Logits ``(batch, target, x, y, z)`` from an image ``(batch, modality, x, y, z)``."""
        if not self.deep_supervision:
            logits: Tensor = super().forward(image) if self.may_lack else self.model(self.split(image))
            # Else nnU-Net would write an empty mask.
            return logits if self.training else require_finite(logits)
        fused = self.model.fuse(self.model.encode(self.split(image)))
        finest: Tensor = self.model.head(fused[0])
        return [finest, *(head(x) for head, x in zip(self.model.deep_heads, fused[1:], strict=False))]


class ResidualEncoder(Encoder):
    """The encoder of nnU-Net's ``ResidualEncoderUNet``, of one modality, from nnU-Net's own blocks.

    Args:
        channels: feature channels of each scale, finest first.
        kernels: width of the convolutions of each scale.
        strides: see ``Encoder``.
        blocks: number of residual blocks of each scale.
    """

    def __init__(
        self, channels: Sequence[int], *, kernels: Sequence[Any], strides: Sequence[Any], blocks: Sequence[int]
    ) -> None:
        from dynamic_network_architectures.building_blocks import residual_encoders

        super().__init__(channels, strides)
        self.scales = residual_encoders.ResidualEncoder(
            1, len(channels), channels, nn.Conv3d, kernels, strides, blocks, conv_bias=True, norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, return_skips=True,
        )  # fmt: skip

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return tuple(self.scales(image))


def network_from_plan(
    network_class: str, architecture: Mapping[str, Any], modalities: Sequence[str], outputs: int
) -> PlannedNetwork:
    """The multimodal counterpart of a plan's ``PlainConvUNet`` or ``ResidualEncoderUNet``, with its initial weights.

    Every encoder is the plan's; the decoder is the plan's too and reads the fusion of the encoders. Deep supervision
    reaches all scales that nnU-Net gives weight to, which are all but the two coarsest.

    Args:
        network_class: the plan's ``network_class_name``.
        architecture: the plan's ``arch_kwargs``.
        modalities: names of the image's channels.
        outputs: number of output channels.

    Raises:
        ConfigError: if the plan describes another network than a 3-D U-Net of nnU-Net's planners.
    """
    kind = network_class.rpartition(".")[2]
    dimensions = str(architecture.get("conv_op", "")).rpartition(".")[2]
    up = {*architecture.get("n_conv_per_stage_decoder", ())}
    down = {*architecture.get("n_conv_per_stage", ())}
    residual = kind == "ResidualEncoderUNet" and up == {1}
    if dimensions != "Conv3d" or not (residual or (kind == "PlainConvUNet" and down == up == {2})):
        found = f"{kind} of {dimensions or 'unknown dimension'} with {sorted(down | up)} convolutions a scale"
        raise ConfigError(
            f"the plan describes a {found}; expected a PlainConvUNet of Conv3d with 2 or a ResidualEncoderUNet with 1 "
            "in its decoder: choose configuration 3d_fullres or 3d_lowres of a plan by nnU-Net's default planner "
            "(nnUNetPlans) or its ResEnc planners (such as nnUNetResEncUNetMPlans)"
        )
    channels = [int(c) for c in architecture["features_per_stage"]]
    steps = {"kernels": architecture["kernel_sizes"], "strides": architecture["strides"]}
    model = SegmentationModel(
        modalities,
        outputs,
        channels,
        deep_supervision=True,
        encoder=partial(ResidualEncoder, blocks=architecture["n_blocks_per_stage"], **steps)
        if residual
        else partial(UNetEncoder, **steps),
        decoder_kernels=steps["kernels"],
        deep_scales=max(0, len(channels) - 3),
    )
    if residual:
        model.decoder = UNetDecoder(channels, single=True, **steps)
    model.apply(initialise)
    if residual:
        from dynamic_network_architectures.initialization.weight_init import init_last_bn_before_add_to_0

        model.apply(init_last_bn_before_add_to_0)
    return PlannedNetwork(model)


def initialise(module: nn.Module) -> None:
    """Draw a convolution's weights as nnU-Net does: He et al. 2015, normal; no bias."""
    if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def channel_modalities(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """The modalities of a data set: what its ``dataset.json`` calls the channels.

    Raises:
        DataError: if two channels have one name, or a name cannot be that of an encoder.

    Example:
        >>> channel_modalities({"channel_names": {"0": "FLAIR", "1": "T1"}})
        ('FLAIR', 'T1')
    """
    named = dataset.get("channel_names") or dataset.get("modality") or {}
    names = tuple(str(named[channel]) for channel in sorted(named, key=int))
    twice = [name for name, count in Counter(names).items() if count > 1]
    taken = [name for name in names if not name or "." in name or hasattr(nn.ModuleDict, name)]
    if not names or twice or taken:
        raise DataError(
            f"channel_names of dataset.json are {', '.join(names) or 'missing'}; expected a name for each channel, "
            "each once and without a dot, such as FLAIR and T1"
        )
    return names
