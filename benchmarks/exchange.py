"""What exchanging gradients in buckets saves over one exchange at the end, between two processes on a slow link.

Run: python benchmarks/exchange.py [--patch 32] [--rounds 9] [--channels 16 32 64 128] [--tiny]
     python benchmarks/exchange.py --paper [--seconds 1]

Both processes run here and speak gloo. The slow link is simulated: a thread carries one message after another and
sleeps for its latency and for its bytes at the link's rate before it hands the message to gloo. So a message takes no
less than on such a link and nothing of the CPU meanwhile; other traffic, packet loss, and what a network card asks of a
CPU are not simulated. Rates are chosen by this machine: such that an exchange takes a given share of a step. Every
round times one step each way in a random order, and the ratio is taken within the round. ``none`` is gloo as it is,
where messages are copied within the machine, by the cores that also compute.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor, distributed

from cggm_med.optim.exchange import BUCKET_BYTES, GradientExchange
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.registry import STRATEGIES, TASKS, load
from cggm_med.runs.settings import make_config
from cggm_med.training.build import build
from cggm_med.training.step import train_step
from cggm_med.types import Batch

LATENCY = 1e-4  # seconds of a message
SHARES = (0.0, 0.25, 0.5, 1.0, 2.0)  # of a step's time that an exchange of all gradients takes; 0: no link between
GOAL, GOAL_AT = 1.3, 1.0
WAYS = {
    "flat": {"overlap": False},
    "buckets": {},
    "buckets, bfloat16": {"sent_as": torch.bfloat16},
}

LINKS = {"1 Gbit/s": 1e9, "10 Gbit/s": 1e10, "25 Gbit/s": 2.5e10, "100 Gbit/s": 1e11, "400 Gbit/s": 4e11}
LINKS["NVLink 4, 450 GB/s"] = 3.6e12  # each way, of an H100 or H200
PROCESSES = (2, 4, 8, 16, 32, 64)
BACKWARD = 2 / 3  # of a step, in which gradients can be sent: it takes about twice as long as the forward pass


class SlowLink:
    """``torch.distributed.all_reduce`` over a link that carries one message after another."""

    def __init__(self) -> None:
        self.seconds_per_byte = 0.0
        self._carrier = concurrent.futures.ThreadPoolExecutor(1)
        self._real = distributed.all_reduce

    def all_reduce(self, tensor: Tensor, *, async_op: bool = False) -> SlowLink.Message | None:
        """The sum over processes, late."""
        if not self.seconds_per_byte:
            return self._real(tensor, async_op=async_op)
        message = self.Message(self._carrier.submit(self._carry, tensor))
        return message if async_op else message.wait()

    def _carry(self, tensor: Tensor) -> None:
        # A ring of two sends every byte once each way.
        time.sleep(LATENCY + tensor.numel() * tensor.element_size() * self.seconds_per_byte)
        self._real(tensor)

    class Message:
        """A sum on its way."""

        def __init__(self, carried: concurrent.futures.Future) -> None:
            self._carried = carried

        def wait(self) -> None:
            """Until it has arrived."""
            self._carried.result()


def stepper(options: argparse.Namespace) -> tuple[Callable[[str, int], float], int]:
    """A function that times one step whose gradients are exchanged in a way, and the bytes of all gradients."""
    layers = [{"data": {"patch_size": [options.patch] * 3}, "model": {"channels": options.channels}}]
    config = make_config("brats2021", layers, strategy="cggm")
    task = load(TASKS, "brats2021")(config)
    strategy = load(STRATEGIES, "cggm")(config.strategy)
    device = torch.device("cpu")
    model = build(task, strategy, config, device).train()
    optimizer = make_optimizer(model, strategy, config.optim, device)
    parameters = [*model.parameters(), *strategy.parameters()]
    exchanges = {way: GradientExchange(parameters, **how) for way, how in WAYS.items()}
    generator = torch.Generator().manual_seed(distributed.get_rank())
    shape = (1, 1, *config.data.patch_size)
    inputs = {m: torch.randn(shape, generator=generator) for m in model.modalities}
    batch = Batch(inputs, (torch.rand(1, 3, *shape[2:], generator=generator) > 0.7).to(torch.uint8), ("case",))

    def seconds(way: str, number: int) -> float:
        strategy.exchange = exchanges[way]
        distributed.barrier()
        start = time.perf_counter()
        train_step(model, strategy, optimizer, task.criterion(), batch, Step(number, steps=1000), clip_norm=1.0)
        distributed.barrier()
        return time.perf_counter() - start

    return seconds, sum(p.numel() * p.element_size() for p in parameters)


def quartiles(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def measure(rank: int, folder: str, options: argparse.Namespace) -> None:
    """One of the two processes; the first prints."""
    torch.set_num_threads(1)
    say = functools.partial(print, flush=True) if rank == 0 else lambda *_: None
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    link = SlowLink()
    distributed.all_reduce = link.all_reduce
    seconds, size = stepper(options)
    for way in WAYS:
        seconds(way, 0)
    alone = torch.tensor(statistics.median(seconds("flat", 0) for _ in range(options.rounds)))
    distributed.broadcast(alone, 0)
    say(
        f"two processes, {os.cpu_count()} cores, torch {torch.__version__}; gradients of {size / 1e6:.1f} MB in "
        f"buckets of {BUCKET_BYTES / 1e6:.1f} MB; a step without a link takes {alone * 1000:.0f} ms\n"
        f"median ratio (quartiles) of {options.rounds} rounds; latency {LATENCY * 1e3:g} ms\n"
    )
    header = ["exchange / step", "link, Mbit/s", "step, flat, ms", *(f"flat / {way}" for way in WAYS if way != "flat")]
    say("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    order, reached = random.Random(0), {}  # noqa: S311 - an order, not a secret
    for share in options.shares:
        link.seconds_per_byte = share * alone.item() / size
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(options.rounds):
            for way in order.sample(list(WAYS), len(WAYS)):
                times[way].append(seconds(way, number))
        ratios = {w: [a / b for a, b in zip(times["flat"], times[w], strict=True)] for w in WAYS if w != "flat"}
        reached[share] = statistics.median(ratios["buckets"])
        rate = f"{8e-6 / link.seconds_per_byte:.0f}" if share else "none"
        row = [f"{share:g}", rate, f"{1000 * statistics.median(times['flat']):.0f}", *map(quartiles, ratios.values())]
        say("| " + " | ".join(row) + " |")
    if GOAL_AT in reached:
        say(f"\nflat / buckets where an exchange takes as long as a step: {reached[GOAL_AT]:.2f}, goal {GOAL}")
    say(f"\nflat / buckets at worst: {min(reached.values()):.2f}, goal 1.00")
    distributed.barrier()
    distributed.destroy_process_group()


def ring_seconds(size: float, processes: int, bits_per_second: float) -> float:
    """How long a ring of processes needs to add up ``size`` bytes, without latency (Patarasuk and Yuan, 2009).

    Example:
        >>> ring_seconds(1e9, processes=4, bits_per_second=1e10)  # each sends 2 * 3/4 of them
        1.2
    """
    return 2 * (processes - 1) / processes * 8 * size / bits_per_second


def pays_up_to(size: float, bits_per_second: float, seconds: float) -> int:
    """Number of processes that may share a batch before half of what they compute is lost to waiting.

    Args:
        size: of the gradients in bytes.
        bits_per_second: of the link.
        seconds: that one process takes for a step with the whole batch.

    Example:
        >>> pays_up_to(1e9, 1e11, seconds=1.0)  # 0.04 s and 0.14 s, at most twice 1/8 s
        8
    """
    best = 1
    for n in PROCESSES:
        alone = seconds / n
        step = (1 - BACKWARD) * alone + max(BACKWARD * alone, ring_seconds(size, n, bits_per_second))
        best = n if step <= 2 * alone else best
    return best


def on_paper(seconds: float) -> None:
    """Print what an exchange takes for each preset, link and number of processes, and what follows from it."""
    header = ["preset, gradients", "link", *map(str, PROCESSES), "hidden from", f"a batch of {seconds:g} s pays up to"]
    print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for preset in ("tiny", "base", "full"):
        config = make_config("brats2021", [], preset=preset, strategy="cggm")
        strategy = load(STRATEGIES, "cggm")(config.strategy)
        model = build(load(TASKS, "brats2021")(config), strategy, config, torch.device("cpu"))
        size = sum(p.numel() * p.element_size() for p in [*model.parameters(), *strategy.parameters()])
        for link, rate in LINKS.items():
            times = [1000 * ring_seconds(size, n, rate) for n in PROCESSES]
            figures = [f"{x:.0f}" if x >= 99.5 else f"{x:.2g}" for x in (*times, times[-1] / BACKWARD)]
            up_to = pays_up_to(size, rate, seconds)
            row = [f"{preset}, {size / 1e6:.1f} MB", link, *figures, f"{up_to}{' or more' * (up_to == PROCESSES[-1])}"]
            print("| " + " | ".join(row) + " |")


def main() -> None:
    """Start two processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128], help="of the network's scales")
    parser.add_argument("--patch", type=int, default=32, help="edge of the patch, of which each process takes one")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of a step that an exchange takes")
    parser.add_argument("--paper", action="store_true", help="only print what exchanges of other networks would take")
    parser.add_argument("--seconds", type=float, default=1.0, help="with --paper: of a step with the whole batch")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, only to see that it runs")
    options = parser.parse_args()
    if options.paper:
        on_paper(options.seconds)
        return
    if options.tiny:
        options.channels, options.patch, options.rounds, options.shares = [4, 8], 16, 2, (GOAL_AT,)
    with tempfile.TemporaryDirectory() as folder:
        forks = multiprocessing.get_context("fork")
        processes = [forks.Process(target=measure, args=(rank, folder, options)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    raise SystemExit(any(process.exitcode for process in processes))


if __name__ == "__main__":
    main()
