"""What each strategy's step costs over a joint step of the same model: time and peak memory, as ratios.

Run: python benchmarks/strategy_overhead.py [--device cuda] [--presets tiny base] [--rounds 15] [--only cggm] [--tiny]

As users get it, joint training has classifier heads that watch; ratios to joint training without them stand beside.
Every round times one step of each variant in a new random order, and the ratio is taken within the round, so that a
machine that slows down or a busy neighbour hits all variants alike. Printed is the median ratio with its quartiles. A
variant that does something every n-th step only is timed over n steps.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time

import torch

from cggm_med.device import precision
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.registry import STRATEGIES, TASKS, load
from cggm_med.runs.settings import make_config
from cggm_med.training.build import build
from cggm_med.training.step import train_step
from cggm_med.types import Batch

GUIDED = {"subset_view": 1.0, "subset_view_guided": True}
DROPPED = {"modality_dropout": 0.5, "modality_dropout_draw": "subset", "modality_dropout_schedule": "annealed"}
RESIDUAL = {"fusion": "residual"}
LOW = {"precision": "bfloat16"}
# Label -> settings of the strategy, of training and of the network, steps in a cycle.
VARIANTS = {
    "joint, no heads": ({"name": "joint", "heads": False}, {}, {}, 1),
    "joint": ({"name": "joint"}, {}, {}, 1),
    "joint, channels last": ({"name": "joint"}, {"memory_format": "channels_last"}, {}, 1),
    "joint, channels last, bfloat16": ({"name": "joint"}, {"memory_format": "channels_last", **LOW}, {}, 1),
    "uniform": ({"name": "uniform"}, {}, {}, 1),
    "cggm": ({"name": "cggm", "warmup_steps": 0}, {}, {}, 1),
    "cggm, direction term": ({"name": "cggm", "warmup_steps": 0, "guidance_weight": 0.1}, {}, {}, 1),
    "ogm": ({"name": "ogm"}, {}, {}, 1),
    "ogm_ge": ({"name": "ogm_ge"}, {}, {}, 1),
    "opm": ({"name": "opm", "warmup": 0.0, "probability": 1.0}, {}, {}, 1),
    "agm": ({"name": "agm"}, {}, {}, 1),
    "mmpareto": ({"name": "mmpareto"}, {}, {}, 1),
    "dgs": ({"name": "dgs"}, {}, {}, 10),
    "modality_dropout": ({"name": "modality_dropout"}, {}, {}, 1),
    "subset_view": ({"name": "subset_view"}, {}, {}, 1),
    "subset_view, every 2nd": ({"name": "subset_view"}, {"subset_view_every": 2}, {}, 2),
    "uniform, guided subset view": ({"name": "uniform"}, GUIDED, {}, 1),
    "uniform, residual": ({"name": "uniform"}, {}, RESIDUAL, 1),
    "uniform, residual, dropout of subsets": ({"name": "uniform"}, DROPPED, RESIDUAL, 1),
    "uniform, residual, subset view": ({"name": "uniform"}, {"subset_view": 0.5}, RESIDUAL, 1),
}
BASES = ("joint", "joint, no heads")


class Variant:
    """One strategy with its own copy of the model, ready to step."""

    def __init__(
        self,
        settings: dict,
        train: dict,
        network: dict,
        cycle: int,
        preset: str,
        device: torch.device,
        batch_size: int,
        patch: int,
    ) -> None:
        layers = [{"strategy": settings, "train": {"batch_size": batch_size, **train}, "model": network}]
        if patch:
            layers.append({"data": {"patch_size": [patch] * 3}})
        config = make_config("brats2021", layers, preset=preset)
        task = load(TASKS, "brats2021")(config)
        self.strategy = load(STRATEGIES, config.strategy.name)(config.strategy)
        self.model = build(task, self.strategy, config, device).train()
        self.optimizer = make_optimizer(self.model, self.strategy, config.optim, device)
        self.criterion = task.criterion()
        self.autocast = precision(config.train.precision, device)
        self.settings = config.train
        size = config.data.patch_size
        inputs = {m: torch.randn(batch_size, 1, *size, device=device) for m in self.model.modalities}
        target = (torch.rand(batch_size, 3, *size, device=device) > 0.7).to(torch.uint8)
        self.batch = Batch(inputs, target, ("case",) * batch_size)
        self.device, self.cycle = device, cycle

    def seconds(self) -> float:
        """Seconds of one step, on average over a cycle."""
        self.wait()
        start = time.perf_counter()
        for number in range(self.cycle):
            self.step(number)
        self.wait()
        return (time.perf_counter() - start) / self.cycle

    def step(self, number: int) -> None:
        """One step."""
        train_step(
            self.model,
            self.strategy,
            self.optimizer,
            self.criterion,
            self.batch,
            Step(number, steps=1000),
            clip_norm=1.0,
            settings=self.settings,
            autocast=self.autocast,
        )

    def wait(self) -> None:
        """Until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_megabytes(self) -> float:
        """Highest memory during the first step of a cycle, above what is held before it."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step(0)
            return (torch.cuda.max_memory_allocated() - before) / 1e6
        # What the process occupies says little, since freed memory is kept for reuse: so allocations are added up.
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            self.step(0)
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=lambda e: e.start_ns())
        return max(itertools.accumulate(e.nbytes() for e in events)) / 1e6


def quartiles(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    """Print a table for each preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--presets", nargs="+", default=["tiny", "base"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=0, help="default: 4 for tiny, 1 for larger presets")
    parser.add_argument("--patch", type=int, default=0, help="edge of the patch; default: the preset's")
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), help="variants; default: all")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.presets, options.rounds, options.batch_size, options.patch = ["tiny"], 2, 1, 16
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}; median ratio (quartiles) of {options.rounds} rounds")
    for preset in options.presets:
        batch_size = options.batch_size or (4 if preset == "tiny" else 1)
        labels = [label for label in VARIANTS if label in options.only or label in BASES]
        variants = {label: Variant(*VARIANTS[label], preset, device, batch_size, options.patch) for label in labels}
        for variant in variants.values():
            variant.step(0)
        times: dict[str, list[float]] = {label: [] for label in variants}
        for _ in range(options.rounds):
            for label in random.sample(labels, len(labels)):
                times[label].append(variants[label].seconds())
        memory = {label: variants[label].peak_megabytes() for label in labels}

        def ratio(label: str, base: str, times: dict[str, list[float]] = times) -> str:
            return quartiles([a / b for a, b in zip(times[label], times[base], strict=True)])

        shape = "x".join(map(str, variants["joint"].batch.target.shape[2:]))
        print(
            f"\n{preset}: batch {batch_size}, patch {shape}; joint: "
            f"{1000 * statistics.median(times['joint']):.0f} ms, {memory['joint']:.0f} MB\n"
        )
        header = ["strategy", *(f"{what} / {base}" for what in ("time", "memory") for base in BASES)]
        print("| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
        for label in labels:
            row = [label, *(ratio(label, base) for base in BASES)]
            row += [f"{memory[label] / memory[base]:.3f}" for base in BASES]
            print("| " + " | ".join(row) + " |", flush=True)
        if {"cggm", "uniform"} <= set(labels):
            print(f"\ncggm / uniform: time {ratio('cggm', 'uniform')}, memory {memory['cggm'] / memory['uniform']:.3f}")


if __name__ == "__main__":
    main()
