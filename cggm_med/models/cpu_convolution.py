"""Faster 3-D convolutions on the CPU, by choosing between PyTorch's implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


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


def _is_plain(image: Tensor, weight: Tensor) -> bool:
    return (
        image.device.type == weight.device.type == "cpu"
        and image.dtype == weight.dtype == torch.float32
        and image.ndim == 5
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )
