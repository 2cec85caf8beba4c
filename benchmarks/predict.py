"""Time and memory of one case from files to mask, against nnU-Net's predictor with the same network and windows.

Run on Linux: python benchmarks/predict.py [--channels 8,16,32,64] [--patch 96] [--rounds 3] [--device auto] [--tiny]

Each round starts a process for either. Time is from the first file read to the mask written, without imports, without
loading the network, and after a first prediction of a small scan that warms up. Both predict without mirroring, with
windows that overlap by half and Gaussian weights. "network" is what is spent inside the network, "rest" is reading,
preprocessing, cutting and joining windows, and writing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

MODALITIES = ("flair", "t1", "t1ce", "t2")


def main() -> None:
    """Print each contestant's figures, medians of all rounds, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", default="8,16,32,64")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=60, help="of training, so that the masks mean something")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=int, nargs=3, default=(240, 240, 155), help="of the scan to time")
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, only to see that it runs")
    options = parser.parse_args()
    if options.tiny:
        options.channels, options.patch, options.rounds, options.steps = "4,8", 32, 1, 1
        options.shape = (48, 48, 40)
    if options.contestant:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options)
        found: dict[str, list[dict[str, Any]]] = {"nnunet": [], "ours": []}
        for _ in range(options.rounds):
            for contestant, results in found.items():
                words = [*sys.argv[1:], "--contestant", contestant, "--folder", folder]
                done = subprocess.run([sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True)
                results.append(json.loads(done.stdout.splitlines()[-1]))
        same = agreement(Path(folder))
    names = [key for key in found["ours"][0] if key != "device"]
    middle = {who: {key: statistics.median(r[key] for r in results) for key in names} for who, results in found.items()}
    print(f"on {found['ours'][0]['device']}, windows of {options.patch}^3, channels {options.channels}")
    print(f"{'':24}{'nnU-Net':>10}{'cggm-med':>10}{'ratio':>8}")
    for key in names:
        theirs, ours = middle["nnunet"][key], middle["ours"][key]
        ratio = theirs / ours if key.endswith("s") else ours / theirs
        print(f"{key:24}{theirs:10.2f}{ours:10.2f}{ratio:8.2f}{'x faster' if key.endswith('s') else 'x memory'}")
    print("goals: a whole case 1.50 times as fast, with wide networks too; predicting takes 0.60 times the memory")
    print(f"Dice of the two masks: {same:.4f}")


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """A run of one step, a small scan to warm up and the scan to time."""
    from cggm_med.config import parse_overrides
    from cggm_med.data.volumes.phantom.cases import write_phantom
    from cggm_med.runs import train as run
    from cggm_med.runs.settings import make_config

    small = tuple(min(a, b) for a, b in zip(options.shape, (96, 96, 80), strict=True))
    write_phantom(folder / "small", cases=3, seed=0, shape=small, spacing_mm=1.0)
    write_phantom(folder / "scan", cases=1, seed=0, shape=tuple(options.shape), spacing_mm=1.0)
    settings = [
        f"data.path={folder / 'small'}",
        f"data.cache={folder / 'cache'}",
        "data.workers=0",
        "data.validation=0",
        "data.spacing=[1,1,1]",
        "data.patch_size=[32,32,32]",
        "data.window_size=null",  # windows as large as the patches, as nnU-Net's
        "task.component_filter=none",
        f"model.channels=[{options.channels}]",
        "train.epochs=1",
        f"train.steps_per_epoch={options.steps}",
        "train.device=cpu",
    ]
    config = make_config("brats2021", [parse_overrides(settings)], preset="tiny", strategy="joint")
    run.start(config, folder / "run", Console(quiet=True))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of one contestant in this process."""
    predict, network, device = (ours if options.contestant == "ours" else nnunet)(options)
    clock = Clock(network, device)
    small, scan = (next((options.folder / name).glob("BraTS*")) for name in ("small", "scan"))
    predict({m: small / f"{small.name}_{m}.nii.gz" for m in MODALITIES}, options.folder / f"{options.contestant}-warm")
    clock.seconds = 0.0
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    predict({m: scan / f"{scan.name}_{m}.nii.gz" for m in MODALITIES}, options.folder / options.contestant)
    seconds = time.perf_counter() - start
    figures = {
        "whole case, s": seconds,
        "  network, s": clock.seconds,
        "  rest, s": seconds - clock.seconds,
        "process, peak GB": memory("VmHWM"),
        "  more than before, GB": memory("VmHWM") - before,
    }
    if device.type == "cuda":
        figures["GPU, peak GB"] = torch.cuda.max_memory_allocated() / 1e9
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {**figures, "device": name}


class Clock:
    """Sums the time inside a network, as the process waits for it."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.seconds, self.device = 0.0, device
        network.register_forward_pre_hook(self.begin)
        network.register_forward_hook(self.end)

    def begin(self, *_: Any) -> None:
        """Start to count."""
        self.wait()
        self.started = time.perf_counter()

    def end(self, *_: Any) -> None:
        """Stop counting."""
        self.wait()
        self.seconds += time.perf_counter() - self.started

    def wait(self) -> None:
        """Until the GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def ours(options: argparse.Namespace) -> tuple[Any, nn.Module, torch.device]:
    """The predictor of this package."""
    from cggm_med.inference.batch import predict_cases
    from cggm_med.inference.predictor import Predictor

    predictor = Predictor(options.folder / "run", options.device, trust_names=True)
    size = (options.patch,) * 3
    predictor.task.settle(data=dataclasses.replace(predictor.task.config.data, patch_size=size))

    def predict(images: dict[str, Path], out: Path) -> None:
        failed = predict_cases(predictor, {"case": images}, {"case": out.with_suffix(".nii.gz")}, say=lambda text: None)
        assert not failed, failed

    return predict, predictor.model, predictor.device


def nnunet(options: argparse.Namespace) -> tuple[Any, nn.Module, torch.device]:
    """nnU-Net's predictor with a plan that asks for the same; in one process, its fastest way for one case."""
    from cggm_med.torchvision_repair import repair_torchvision

    repair_torchvision()
    os.environ.update({f"nnUNet_{name}": str(options.folder) for name in ("raw", "preprocessed", "results")})
    os.environ["nnUNet_compile"] = "f"  # noqa: SIM112 - nnU-Net's spelling
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from cggm_med.models.segmentation import SegmentationModel
    from cggm_med.models.stacked import StackedModalities

    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    stored = torch.load(options.folder / "run/checkpoints/last.pt", weights_only=True)["model"]
    model = SegmentationModel(MODALITIES, 3, [int(c) for c in options.channels.split(",")])
    model.load_state_dict(stored)
    network = StackedModalities(model).to(device).eval()
    plans = PlansManager(plan(options.patch, options.shape))
    description = {
        "channel_names": {str(i): m for i, m in enumerate(MODALITIES)},
        "labels": {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]},
        "regions_class_order": [2, 1, 3],
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    predictor = nnUNetPredictor(tile_step_size=0.5, use_mirroring=False, device=device, verbose=False, allow_tqdm=False)
    configuration = plans.get_configuration("3d_fullres")
    predictor.manual_initialization(
        network, plans, configuration, [network.state_dict()], description, "benchmark", None
    )

    def predict(images: dict[str, Path], out: Path) -> None:
        predictor.predict_from_files_sequential([[str(images[m]) for m in MODALITIES]], [str(out)])

    return predict, network, device


def plan(patch: int, shape: Sequence[int]) -> dict[str, Any]:
    """The plan that nnU-Net makes of skull-stripped scans of 1 mm, as far as its predictor reads it."""

    def resampling(order: int, labels: bool) -> dict[str, Any]:
        return {"is_seg": labels, "order": order, "order_z": 0, "force_separate_z": None}

    statistics_ = dict.fromkeys(("mean", "std", "min", "max", "median", "percentile_00_5", "percentile_99_5"), 0.0)
    return {
        "dataset_name": "benchmark",
        "plans_name": "benchmark",
        "original_median_spacing_after_transp": [1, 1, 1],
        "original_median_shape_after_transp": list(shape),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [2, 1, 0],  # to x, y, z, as the network has learned it
        "transpose_backward": [2, 1, 0],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): statistics_ for i in range(len(MODALITIES))},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "benchmark",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [patch] * 3,
                "median_image_size_in_voxels": list(shape),
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"] * len(MODALITIES),
                "use_mask_for_norm": [True] * len(MODALITIES),
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": resampling(3, False),
                "resampling_fn_seg_kwargs": resampling(1, True),
                "resampling_fn_probabilities_kwargs": resampling(1, False),
                "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
                "batch_dice": False,
            }
        },
    }


def agreement(folder: Path) -> float:
    """Dice of the whole tumour in both masks."""
    import nibabel as nib
    import numpy as np

    theirs, mine = (np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) > 0 for name in ("nnunet", "ours"))
    return float(2 * (theirs & mine).sum() / (theirs.sum() + mine.sum()))


def memory(name: str) -> float:
    """What Linux says of this process, in GB: ``VmRSS`` is what it holds, ``VmHWM`` the most that it held."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e9


if __name__ == "__main__":
    main()
