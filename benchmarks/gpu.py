"""What a GPU reaches: its own ceilings, steps of strategies, the loader and a whole case, beside the goals.

Run: python benchmarks/gpu.py [--device cuda] [--presets tiny base full] [--rounds 15] [--workers 8] [--out FILE]

Everything is measured in one process, and what is compared is a ratio: steps of strategies, in random order, to a joint
step of the same round; arithmetic to the rate at which this device multiplies large matrices in bfloat16; batches that
the loader makes to those that the step uses up. Without a GPU, the same is measured of the CPU. --tiny takes the
smallest sizes, only to see that it runs.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from strategy_overhead import Variant
from torch.utils.flop_counter import FlopCounterMode

from cggm_med.config import parse_overrides
from cggm_med.device import precision
from cggm_med.files import write_json
from cggm_med.models.sliding_window import predict_volume
from cggm_med.registry import TASKS, load
from cggm_med.results.tables import Table, print_table
from cggm_med.runs.settings import make_config

STRATEGIES = {
    "joint": {"name": "joint"},
    "uniform": {"name": "uniform"},
    "cggm": {"name": "cggm", "warmup_steps": 0},
    "mmpareto": {"name": "mmpareto"},
    "subset_view": {"name": "subset_view"},
}
# What is asked of an H100 or H200, by name: the least, or the most, and the preset on which it is measured.
GOALS = {
    "share of the matrix ceiling, full": ("at least", 0.40),
    "cggm / joint, full": ("at most", 1.02),
    "batches made / used, base": ("at least", 1.5),
}
CASE = (240, 240, 155)  # voxels of a case of BraTS


class Clock:
    """Times what a device does."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait(self) -> None:
        """Until the device is idle."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], times: int, warm: int = 1) -> float:
        """Median of some times, after others."""
        for _ in range(warm):
            work()
        found = []
        for _ in range(times):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - start)
        return statistics.median(found)


def ceilings(clock: Clock, tiny: bool) -> dict[str, float]:
    """Products of large matrices in bfloat16, in TFLOP/s, and copying within the device's memory, in GB/s."""
    small = tiny or clock.device.type == "cpu"
    n, length = (512, 2**20) if small else (8192, 2**30)
    a, b = (torch.randn(n, n, device=clock.device, dtype=torch.bfloat16) for _ in range(2))
    x = torch.randn(length, device=clock.device)
    y = torch.empty_like(x)
    return {
        "matrices_tflop_per_s": 2 * n**3 / clock.seconds(lambda: a @ b, 10, 3) / 1e12,
        "copy_gb_per_s": 8 * length / clock.seconds(lambda: y.copy_(x), 5) / 1e9,
    }


def steps(clock: Clock, preset: str, ceiling: float, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of each strategy: time, memory and arithmetic of a step, its ratio to joint, and its share of the ceiling."""
    batch, patch = (1, 16) if options.tiny else (4 if preset == "tiny" else 2, 0)
    torch.backends.cudnn.benchmark = True
    variants = {name: Variant(of, {}, {}, 1, preset, clock.device, batch, patch) for name, of in STRATEGIES.items()}
    for variant in variants.values():
        for number in range(3):
            variant.step(number)
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(options.rounds):
        for name in random.sample(list(variants), len(variants)):
            times[name].append(variants[name].seconds())
    found = {}
    for name, variant in variants.items():
        with FlopCounterMode(display=False) as counter:
            variant.step(0)
        seconds = statistics.median(times[name])
        rate = counter.get_total_flops() / seconds / 1e12
        found[name] = {
            "ms": 1e3 * seconds,
            "over_joint": statistics.median(a / b for a, b in zip(times[name], times["joint"], strict=True)),
            "patches_per_s": batch / seconds,
            "memory_gb": variant.peak_megabytes() / 1e3,
            "tflop_per_s": rate,
            "share_of_ceiling": rate / ceiling,
        }
    return found


def profile(clock: Clock, preset: str, tiny: bool) -> dict[str, Any]:
    """Where the time of a cggm step goes, in which share of it the device is busy, and how often it is waited for."""
    variant = Variant(STRATEGIES["cggm"], {}, {}, 1, preset, clock.device, 1 if tiny else 2, 16 if tiny else 0)
    variant.step(0)
    on_gpu = clock.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if on_gpu else [])]
    clock.wait()
    start = time.perf_counter()
    with torch.profiler.profile(activities=kinds) as found:
        variant.step(1)
        clock.wait()
    wall = time.perf_counter() - start
    events = found.key_averages()
    own = {e.key: (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / 1e3 for e in events}
    longest = sorted(own.items(), key=lambda item: -item[1])[:10]
    waits = sum(e.count for e in events if e.key in {"aten::_local_scalar_dense", "cudaStreamSynchronize"})
    busy = {"busy_share": sum(own.values()) / 1e3 / wall} if on_gpu else {}
    return {"longest_ms": dict(longest), "waits": waits, **busy}


def loader(preset: str, step_seconds: float, options: argparse.Namespace) -> dict[str, float]:
    """Batches that the workers make in a second, over those that the joint step uses up."""
    count = 3 if options.tiny else 60
    settings = [f"data.workers={options.workers}", f"train.steps_per_epoch={count + 10}", "train.epochs=1"]
    settings += ["train.batch_size=1", "data.patch_size=[16,16,16]", "data.phantom_cases=3"] if options.tiny else []
    config = make_config("brats2021", [parse_overrides(settings)], preset=preset)
    task = load(TASKS, "brats2021")(config)
    task.find(lambda line: None)
    task.prepare(task.default_splits(), lambda line: None)
    batches = iter(task.batches(0, pin_memory=options.device.startswith("cuda")))
    for _ in range(max(2, 2 * options.workers if not options.tiny else 0)):  # what the workers had in store
        next(batches)
    start = time.perf_counter()
    made = 0
    for made, _ in enumerate(batches, 1):
        if made == count:
            break
    rate = made / (time.perf_counter() - start)
    return {"batches_per_s": rate, "made_over_used": rate * step_seconds}


def whole_case(clock: Clock, preset: str, tiny: bool) -> dict[str, float]:
    """Seconds in which windows predict a case that is in memory already."""
    variant = Variant(STRATEGIES["joint"], {}, {}, 1, preset, clock.device, 1, 16 if tiny else 0)
    model = variant.model.eval()
    shape = (24, 24, 24) if tiny else CASE
    image = torch.randn(len(model.modalities), *shape, device=clock.device)
    window = tuple(variant.batch.target.shape[2:])
    low = precision("auto", clock.device)

    @torch.inference_mode()
    def predict() -> None:
        def network(windows: torch.Tensor) -> torch.Tensor:
            with low():
                return model({m: windows[:, i : i + 1] for i, m in enumerate(model.modalities)}).float()

        predict_volume(network, image, window, overlap=0.5)

    return {"seconds": clock.seconds(predict, 1 if tiny else 3)}


def main() -> None:
    """Print a table for each preset, and the goals beside what was reached."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--presets", nargs="+", default=["tiny", "base", "full"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.presets, options.rounds, options.workers = ["tiny"], 2, 0
    console, clock = Console(), Clock(torch.device(options.device))
    name = torch.cuda.get_device_name() if clock.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "ceilings": ceilings(clock, options.tiny)}
    ceiling = found["ceilings"]["matrices_tflop_per_s"]
    console.print(
        f"{name}, torch {torch.__version__}: matrices {ceiling:.3g} TFLOP/s in bfloat16, copying "
        f"{found['ceilings']['copy_gb_per_s']:.0f} GB/s"
    )
    reached: dict[str, float] = {}
    for preset in options.presets:
        rows = steps(clock, preset, ceiling, options)
        table = tuple(
            (
                strategy,
                f"{row['ms']:.1f}",
                f"{row['over_joint']:.3f}",
                f"{row['patches_per_s']:.1f}",
                f"{row['memory_gb']:.2f}",
                f"{row['share_of_ceiling']:.1%}",
            )
            for strategy, row in rows.items()
        )
        header = ("strategy", "ms", "time / joint", "patches/s", "memory GB", "of the ceiling")
        print_table(Table(f"a step of {preset}", header, table), console)
        case = whole_case(clock, preset, options.tiny)
        where = profile(clock, preset, options.tiny)
        fed = loader(preset, rows["joint"]["ms"] / 1e3, options)
        found[preset] = {"steps": rows, "case": case, "profile": where, "loader": fed}
        busy = f", busy {where['busy_share']:.0%} of a step" if "busy_share" in where else ""
        console.print(
            f"a whole case: {case['seconds']:.2f} s; {options.workers} workers make {fed['made_over_used']:.2f} of the "
            f"batches that the step uses; waits in a cggm step: {where['waits']}{busy}"
        )
        reached[f"share of the matrix ceiling, {preset}"] = rows["joint"]["share_of_ceiling"]
        reached[f"cggm / joint, {preset}"] = rows["cggm"]["over_joint"]
        reached[f"batches made / used, {preset}"] = fed["made_over_used"]
    lines = tuple(
        (goal, f"{word} {value}", f"{reached[goal]:.3f}" if goal in reached else "not measured")
        for goal, (word, value) in GOALS.items()
    )
    print_table(Table("goals for an H100 or H200", ("what", "goal", "reached here"), lines), console)
    if options.out:
        write_json(options.out, found)


if __name__ == "__main__":
    main()
