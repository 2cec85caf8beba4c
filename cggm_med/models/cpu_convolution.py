"""Faster 3-D convolutions on the CPU, by choosing between PyTorch's implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

NARROW = 16  # channels that oneDNN computes together with AVX-512; it is slow with fewer


class FastConvolutions(TorchFunctionMode):
    """While it is active, choose how ``torch.conv3d`` computes on a CPU in float32, without gradients.

    PyTorch 2.13 chooses by rules made for images: it looks at the first two axes of a volume only, considers a batch of
    one small, and hence computes the convolution of 32 channels of 24^3 voxels ten times as slowly as with oneDNN. With
    several threads it uses oneDNN for kernels of one voxel, which are matrix products. The results differ in their last
    bits. ``benchmarks/predict.py`` measures the speed-up: large for narrow networks, none for wide ones, for which
    PyTorch chooses well.

    Example:
        >>> layer, image = torch.nn.Conv3d(2, 3, 3, padding=1), torch.randn(1, 2, 4, 4, 4)
        >>> with torch.no_grad(), FastConvolutions():
        ...     fast = layer(image)
        >>> torch.allclose(fast, layer(image), atol=1e-5)
        True
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Any = None,
    ) -> Any:
        """Called in place of every function of PyTorch."""
        if function is torch.conv3d and not kwargs and len(args) == 7 and _is_plain(args[0], args[1]):
            image, weight, bias, stride, padding, dilation, groups = args
            if not isinstance(padding, str):
                if weight.shape[2:] == (1, 1, 1) and groups == 1 and {*stride, 1} == {1} and {*padding, 0} == {0}:
                    product = torch.matmul(weight.flatten(1), image.flatten(2))
                    product = product.view(len(image), len(weight), *image.shape[2:])
                    return product if bias is None else product.add_(bias.view(-1, 1, 1, 1))
                return torch.mkldnn_convolution(image, weight, bias, padding, stride, dilation, groups)
        return function(*args, **(kwargs or {}))


class NarrowConv3d(nn.Conv3d):
    """A convolution of fewer than 16 channels that trains faster on a CPU in float32, and is its base class elsewhere.

    With so few channels, PyTorch 2.13 computes gradients in half of the time where channels lie last in memory, and in
    a quarter where flat kernels are those of images (8 channels, one core with AVX-512). Results differ in their last
    bits.
    """

    @classmethod
    def take_over(cls, model: nn.Module) -> None:
        """Make every narrow convolution of a network one of these; weights and their names stay.

        Example:
            >>> model = nn.Sequential(nn.Conv3d(1, 8, 3), nn.Conv3d(8, 8, 3), nn.Conv3d(8, 32, 3), nn.Conv3d(32, 32, 3))
            >>> NarrowConv3d.take_over(model)
            >>> [type(layer).__name__ for layer in model]
            ['Conv3d', 'NarrowConv3d', 'NarrowConv3d', 'Conv3d']
        """
        for layer in model.modules():
            if type(layer) is nn.Conv3d and _is_narrow(layer):
                layer.__class__ = cls

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_plain(input, weight, gradients=True):
            return super()._conv_forward(input, weight, bias)
        flat = [axis for axis in range(3) if self.kernel_size[axis] == self.stride[axis] == 1]
        if flat:
            return self._of_images(input, weight, bias, flat[0])
        volume, weight = (each.contiguous(memory_format=torch.channels_last_3d) for each in (input, weight))
        return super()._conv_forward(volume, weight, bias).contiguous()

    def _of_images(self, volume: Tensor, weight: Tensor, bias: Tensor | None, flat: int) -> Tensor:
        """Convolve the slices along the axis in which the kernel is flat."""
        slices = volume.movedim(flat + 2, 1)
        images, weight = (
            each.contiguous(memory_format=torch.channels_last)
            for each in (slices.flatten(0, 1), weight.squeeze(flat + 2))
        )
        assert not isinstance(self.padding, str)  # noqa: S101 - such layers are not taken over
        stride, padding, dilation = (
            [value for axis, value in enumerate(of) if axis != flat]
            for of in (self.stride, self.padding, self.dilation)
        )
        found = F.conv2d(images, weight, bias, stride, padding, dilation)
        return found.unflatten(0, slices.shape[:2]).movedim(1, flat + 2).contiguous()


def _is_narrow(layer: nn.Conv3d) -> bool:
    """Whether it has few channels but more than one, and no option that networks for volumes do without."""
    plain = layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    unpadded = plain and all(k > 1 or not pad for k, pad in zip(layer.kernel_size, layer.padding, strict=True))
    return unpadded and 1 < min(layer.in_channels, layer.out_channels) < NARROW and max(layer.kernel_size) > 1


def _is_plain(volume: Tensor, weight: Tensor, *, gradients: bool = False) -> bool:
    return (
        volume.device.type == weight.device.type == "cpu"
        and volume.dtype == weight.dtype == torch.float32
        and volume.ndim == 5
        and torch.is_grad_enabled() == gradients
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )
