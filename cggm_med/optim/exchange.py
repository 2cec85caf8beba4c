"""The mean of gradients over processes: in buckets, sent while the backward pass still runs, or all at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed
from torch.nn import Parameter

from cggm_med.distributed import active, average, average_known, flattened, mean_of_sum, sum_over_processes
from cggm_med.errors import ConfigError

# The last bucket is sent when nothing is left to compute, so it must be small; each costs a message's latency, so
# there must not be many. 4 MiB take 3 ms at 10 Gbit/s, a hundred times the latency of a good network.
BUCKET_BYTES = 4 * 2**20


@dataclass
class _Sent:
    """A bucket on its way."""

    flat: Tensor
    work: distributed.Work
    # Of each parameter the gradient, if it had one, and that tensor's version, which every change in place counts up.
    versions: list[tuple[Tensor, int] | None]


class GradientExchange:
    """Averages gradients over processes, bucket by bucket while the last backward pass of a batch runs.

    Buckets hold parameters in the reverse of their order, which is roughly the order in which a backward pass reaches
    them, and are sent in that order in all processes, whatever is ready first: so they always meet. What reaches no
    gradient is sent as zeros. The means are those of one exchange at the end: on two processes the same bits, on more
    the same sums in another order. If a gradient changes within the block after it was sent, as in a second backward
    pass, ``finish`` exchanges all of this step's anew.

    Args:
        parameters: in the same order in all processes.
        overlap: whether to send during the backward pass; otherwise ``finish`` does all.
        sent_as: type in which gradients are sent and added; default: their own.
        bucket_bytes: of gradients, after which a bucket is full.

    Example:
        >>> layer = torch.nn.Linear(2, 1)
        >>> exchange = GradientExchange(layer.parameters())
        >>> with exchange.sending():
        ...     layer(torch.ones(1, 2)).sum().backward()
        >>> exchange.finish()  # one process has the mean already
        >>> layer.weight.grad
        tensor([[1., 1.]])
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        *,
        overlap: bool = True,
        sent_as: torch.dtype | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.parameters = [p for p in dict.fromkeys(parameters) if p.requires_grad]
        self.overlap, self.sent_as = overlap, sent_as
        self._buckets: list[list[Parameter]] = []
        filled = bucket_bytes
        for parameter in reversed(self.parameters):
            if filled >= bucket_bytes:
                self._buckets.append([])
                filled = 0
            self._buckets[-1].append(parameter)
            filled += parameter.numel() * parameter.element_size()
        self._bucket_of = {p: i for i, bucket in enumerate(self._buckets) for p in bucket}
        self._missing: list[set[Parameter]] = []
        self._sent: list[_Sent] = []
        self._stale = False

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Send gradients as they become ready within the block, which holds the last backward pass of a batch."""
        if not (self.overlap and active()):
            yield
            return
        self._receive()  # what a strategy that exchanges by itself has left
        self._missing = [set(bucket) for bucket in self._buckets]
        hooks = [p.register_post_accumulate_grad_hook(self._arrived) for p in self.parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        # All processes send the rest here, before anything else that they exchange.
        while len(self._sent) < len(self._buckets):
            self._send()
        self._stale = self._changed()

    def finish(self, *, some_lack: bool = False) -> None:
        """Put the means into ``.grad``, once all of a batch has been differentiated.

        Args:
            some_lack: whether a process may have no gradient of a parameter, as where its samples lack a modality.

        Raises:
            ConfigError: if a gradient that was sent has been changed since the backward pass.
        """
        if self._sent and not self._stale and self._changed():
            raise ConfigError(
                "train.exchange is buckets, and the strategy changed gradients between its backward pass and the "
                "exchange, which had begun; set train.exchange=flat, or change them after super().combine"
            )
        found = [p.grad is not None for p in self.parameters]
        if self._sent and some_lack:
            counts = torch.tensor([*found, self._stale], dtype=torch.float32, device=self.parameters[0].device)
            *found, self._stale = map(bool, sum_over_processes(counts).tolist())
        sent = self._receive()
        if not sent or self._stale:
            self._average_at_once(some_lack)
            return
        somewhere = {p for p, is_found in zip(self.parameters, found, strict=True) if is_found}
        for bucket, arrived in zip(self._buckets, sent, strict=True):
            means = mean_of_sum(arrived.flat).split([p.numel() for p in bucket])
            for parameter, mean in zip(bucket, means, strict=True):
                if parameter not in somewhere:
                    continue
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.copy_(mean.view_as(parameter))

    def _average_at_once(self, some_lack: bool) -> None:
        gradients = [p.grad for p in self.parameters]
        if not some_lack:
            average([g for g in gradients if g is not None], self.sent_as)
            return
        means = average_known(gradients, self.parameters, self.sent_as)
        for parameter, mean in zip(self.parameters, means, strict=True):
            parameter.grad = mean

    def _arrived(self, parameter: Parameter) -> None:
        """Send what is complete with this gradient."""
        self._missing[self._bucket_of[parameter]].discard(parameter)
        while len(self._sent) < len(self._buckets) and not self._missing[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        """Send the next bucket."""
        bucket = self._buckets[len(self._sent)]
        gradients = [p.grad for p in bucket]
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(bucket, gradients, strict=True)]
        flat = flattened(parts, self.sent_as)
        work = distributed.all_reduce(flat, async_op=True)
        versions = [None if g is None else (g, g._version) for g in gradients]
        self._sent.append(_Sent(flat, work, versions))

    def _changed(self) -> bool:
        """Whether a gradient is another one than was sent."""
        now = [None if p.grad is None else (p.grad, p.grad._version) for bucket in self._buckets for p in bucket]
        sent = [version for bucket in self._sent for version in bucket.versions]
        return any(
            (a is None) != (b is None) or (a is not None and b is not None and (a[0] is not b[0] or a[1] != b[1]))
            for a, b in zip(now, sent, strict=True)
        )

    def _receive(self) -> list[_Sent]:
        """All that is on its way, complete."""
        sent, self._sent = self._sent, []
        for bucket in sent:
            bucket.work.wait()
        return sent
