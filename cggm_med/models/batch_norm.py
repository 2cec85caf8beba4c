"""Batch normalisation over the samples of all processes, so that their number does not change what is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cggm_med.distributed import active, sum_over_processes

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SharedBatchNorm(_BatchNorm):
    """A batch normalisation whose mean and variance in training are those of the samples of all processes.

    torch's ``SyncBatchNorm`` does the same on GPUs alone. All processes must pass through it equally often. With one
    process, in evaluation and in its state it is the layer that it was.
    """

    @staticmethod
    def take_over(network: nn.Module) -> None:
        """Let every batch normalisation of a network be one of all processes, if there are several.

        Example:
            >>> network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
            >>> SharedBatchNorm.take_over(network)
            >>> type(network[1]).__name__  # one process
            'BatchNorm1d'
        """
        for module in network.modules() if active() else ():
            if type(module) in KINDS:
                module.__class__ = SharedBatchNorm

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (sample, channel, ...), got {input.ndim} axes")

    def forward(self, input: Tensor) -> Tensor:
        """Normalised values of the shape of ``(sample, channel, ...)``; a process may have no sample at all."""
        if not (self.training and active()):
            return super().forward(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        x = wide.transpose(0, 1).flatten(1)  # (channel, value)
        count = sum_over_processes(x.new_tensor([x.shape[1]]))
        mean = _Sum.apply(x.sum(1)) / count
        centred = x - mean[:, None]
        variance = _Sum.apply(centred.square().sum(1)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        x = centred * (variance + self.eps).rsqrt()[:, None]
        if self.affine:
            x = x * self.weight[:, None] + self.bias[:, None]
        return x.view(wide.transpose(0, 1).shape).transpose(0, 1).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Sum(torch.autograd.Function):
    """The sum over processes; each receives the gradients of all."""

    @staticmethod
    def forward(context: Any, here: Tensor) -> Tensor:
        return sum_over_processes(here)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return sum_over_processes(gradient)
