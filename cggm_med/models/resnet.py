"""Convolutional encoders of images, video frames and spectrograms: ResNet-18, and a small one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ResNetEncoder(nn.Module):
    """ResNet-18 (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385) without its last layer.

    MONAI's network with the stem of the original, for which MONAI's defaults have stride 1, and without its biases in
    the shortcuts. Weights are random (Kaiming, fan-out), as in OGM. Vectors of several frames are averaged.

    Attributes:
        width: length of the feature vector.

    Args:
        channels: of the input: 3 for RGB, 1 for a spectrogram.
        width: length of the feature vector, a multiple of 8; 512 in ResNet-18, less for a smaller one.
        blocks: number of residual blocks at each of the four scales.

    Raises:
        ValueError: if ``width`` is no multiple of 8.

    Example:
        >>> ResNetEncoder(channels=3, width=32, blocks=(1, 1, 1, 1))(torch.zeros(2, 4, 3, 32, 32)).shape
        torch.Size([2, 32])
    """

    def __init__(self, channels: int, width: int = 512, blocks: Sequence[int] = (2, 2, 2, 2)) -> None:
        from monai.networks.nets import ResNet

        super().__init__()
        if width % 8 or width < 8:
            raise ValueError(f"width is {width}; expected a multiple of 8, which doubles over four scales")
        self.width = width
        self.net = ResNet(
            "basic",
            list(blocks),
            [width // 8, width // 4, width // 2, width],
            spatial_dims=2,
            n_input_channels=channels,
            conv1_t_size=7,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Feature vectors ``(batch, width)``.

        Args:
            x: ``(batch, channel, height, width)`` or ``(batch, frame, channel, height, width)``.
        """
        if x.ndim == 4:
            return self.net(x)
        return self.net(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(dim=1)


class ConvEncoder(nn.Module):
    """A few 3x3 convolutions, each halving the grid, then means over the cells of a coarse grid.

    Small enough to train on a CPU. The coarse grid keeps positions apart, unlike a global mean: in a spectrogram they
    are the frequencies and the order of sounds.

    Args:
        channels: of the input.
        widths: channels of each convolution.
        grid: cells along both axes of the input.

    Attributes:
        width: length of the feature vector, ``widths[-1]`` times the number of cells.

    Example:
        >>> encoder = ConvEncoder(channels=1, widths=(8, 16), grid=(2, 2))
        >>> encoder(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 64])
    """

    def __init__(self, channels: int, widths: Sequence[int], grid: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.width = widths[-1] * grid[0] * grid[1]
        layers: list[nn.Module] = []
        for before, after in zip((channels, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(grid), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Feature vectors ``(batch, width)``.

        Args:
            x: ``(batch, channel, height, width)`` or ``(batch, channel, frequency, time)``.
        """
        return self.layers(x)
