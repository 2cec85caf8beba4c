"""What a CGGM step costs over a joint step of the same model: time and peak memory, as ratios from one process.

Run: python benchmarks/step_cost.py [--device cuda] [--presets tiny base] [--rounds 15]

Every round times one step of each variant in a new random order, and the ratio is taken within the round, so that a
machine that slows down or a busy neighbour hits all variants alike. Printed is the median ratio with its quartiles.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time

import torch

from cggm_med import engine
from cggm_med.registry import STRATEGIES, TASKS, load
from cggm_med.settings import make_config
from cggm_med.typing import Batch

VARIANTS = {
    "joint": {"name": "joint"},
    "cggm, g = 0": {"name": "cggm", "strength": 0.0, "warmup_steps": 0},
    "cggm": {"name": "cggm", "warmup_steps": 0},
}


class Variant:
    """One strategy with its own copy of the model, ready to step."""

    def __init__(self, settings: dict, preset: str, device: torch.device, batch_size: int, patch: int) -> None:
        layers = [{"strategy": settings, "train": {"batch_size": batch_size}}]
        if patch:
            layers.append({"data": {"patch_size": [patch] * 3}})
        config = make_config("brats2021", layers, preset=preset)
        task = load(TASKS, "brats2021")(config)
        self.strategy = load(STRATEGIES, config.strategy.name)(config.strategy)
        self.model = engine.build(task, self.strategy, config, device).train()
        self.optimizer = engine.make_optimizer(self.model, self.strategy, config.optim, device)
        self.criterion = task.criterion()
        self.autocast = engine.precision("auto", device)
        size = config.data.patch_size
        inputs = {m: torch.randn(batch_size, 1, *size, device=device) for m in self.model.modalities}
        target = (torch.rand(batch_size, 3, *size, device=device) > 0.7).to(torch.uint8)
        self.batch = Batch(inputs, target, ("case",) * batch_size)
        self.device = device

    def step(self) -> float:
        """Seconds of one step."""
        self.wait()
        start = time.perf_counter()
        engine.train_step(
            self.model, self.strategy, self.optimizer, self.criterion, self.batch, clip_norm=1.0, autocast=self.autocast
        )
        self.wait()
        return time.perf_counter() - start

    def factor_seconds(self, repeats: int = 50) -> float:
        """Seconds that CGGM's factor takes in a step by itself: scores to factors, factors to updates."""
        strategy = self.strategy
        sums = torch.rand(len(self.model.modalities), 3, 3, device=self.device) + 1
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.wait()
        start = time.perf_counter()
        for _ in range(repeats):
            strategy.observe(self.model.modalities, sums)
            strategy.modulate(self.model, self.optimizer)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self.wait()
        return (time.perf_counter() - start) / repeats

    def wait(self) -> None:
        """Until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def peak_megabytes(self) -> float:
        """Highest memory during one step, above what is held before it."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            return (torch.cuda.max_memory_allocated() - before) / 1e6
        # What the process occupies says little, since freed memory is kept for reuse: so allocations are added up.
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            self.step()
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=lambda e: e.start_ns())
        return max(itertools.accumulate(e.nbytes() for e in events)) / 1e6


def quartiles(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--presets", nargs="+", default=["tiny", "base"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=0, help="default: 4 for tiny, 1 for larger presets")
    parser.add_argument("--patch", type=int, default=0, help="edge of the patch; default: the preset's")
    options = parser.parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}; median ratio (quartiles) of {options.rounds} rounds\n")
    print("| preset | joint ms | cggm / joint | cggm / (g = 0) | factor alone | peak memory cggm / joint |")
    print("| --- | --- | --- | --- | --- | --- |")
    for preset in options.presets:
        batch_size = options.batch_size or (4 if preset == "tiny" else 1)
        variants = {
            label: Variant(settings, preset, device, batch_size, options.patch) for label, settings in VARIANTS.items()
        }
        for variant in variants.values():
            variant.step()
        times: dict[str, list[float]] = {label: [] for label in variants}
        for _ in range(options.rounds):
            for label in random.sample(list(variants), len(variants)):
                times[label].append(variants[label].step())
        ratio = {
            pair: [a / b for a, b in zip(times[pair[0]], times[pair[1]], strict=True)]
            for pair in (("cggm", "joint"), ("cggm", "cggm, g = 0"))
        }
        share = variants["cggm"].factor_seconds() / statistics.median(times["joint"])
        alone = f"{share:.2%} of a joint step"
        memory = {label: variants[label].peak_megabytes() for label in variants}
        print(
            f"| {preset} | {1000 * statistics.median(times['joint']):.0f} | {quartiles(ratio['cggm', 'joint'])} "
            f"| {quartiles(ratio['cggm', 'cggm, g = 0'])} | {alone} | {memory['cggm'] / memory['joint']:.3f} "
            f"({memory['cggm']:.0f} / {memory['joint']:.0f} MB) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
