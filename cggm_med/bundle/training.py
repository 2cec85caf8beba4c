"""Training and evaluation under the names that a MONAI bundle's configuration expects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from cggm_med import distributed
from cggm_med.bundle.configs import convention_tree
from cggm_med.bundle.run_facts import run_facts
from cggm_med.config import RunConfig, Tree, parse_overrides, read_file
from cggm_med.device import select_device
from cggm_med.errors import ConfigError
from cggm_med.evaluation import ask
from cggm_med.inference.predictor import Predictor
from cggm_med.models.inferer import ProbabilityInferer
from cggm_med.models.segmentation import SegmentationModel
from cggm_med.models.stacked import StackedModalities
from cggm_med.results.results import Report
from cggm_med.runs import train as run
from cggm_med.runs.settings import as_trained, make_config
from cggm_med.task.segmentation import SegmentationTask


@dataclass(frozen=True)
class Scans:
    """The data set of a bundle's configuration: the engine reads, checks and splits the scans itself.

    Attributes:
        data: folder or datalist.
    """

    data: str


class EngineTrainer:
    """``cggm-med train`` as a bundle's trainer, so that there is only one training loop.

    The bundle's configuration overrides the file of settings.

    Args:
        settings: YAML file of settings, as for ``cggm-med train --config``.
        network: defines modalities and channels; its weights are not used.
        dataset: where the scans are.
        inferer: size of patches and windows, overlap of windows, precision.
        output_dir: new run folder.
        max_epochs: epochs to train.
        val_interval: epochs between two validations.
        device: where to compute.
        overrides: further settings, as for ``cggm-med train --set``; they override all others.
        train_handlers: must be empty, since the engine has no handlers.

    Attributes:
        max_epochs: epochs to train.
        config: the resolved settings.

    Raises:
        ConfigError: for handlers or invalid settings.
    """

    def __init__(
        self,
        settings: str,
        network: StackedModalities,
        dataset: Scans,
        inferer: ProbabilityInferer,
        output_dir: str,
        max_epochs: int,
        val_interval: int,
        device: str | torch.device = "auto",
        overrides: Sequence[str] = (),
        train_handlers: Sequence[object] = (),
    ) -> None:
        _refuse(train_handlers)
        model = network.model
        assert isinstance(model, SegmentationModel)  # noqa: S101 - the configuration names it
        from_bundle: Tree = {
            "task": {"modalities": list(network.modalities)},
            "data": {
                "path": os.path.abspath(dataset.data),
                "patch_size": list(inferer.roi_size),
                "overlap": inferer.overlap,
            },
            "model": {"channels": list(model.channels), "deep_supervision": len(model.deep_heads) > 0},
            "train": {
                "epochs": max_epochs,
                "validate_every": val_interval,
                "device": str(device),
                "precision": inferer.precision,
            },
        }
        stored = as_trained(read_file(Path(settings)))
        name = str(stored.get("task", {}).get("name"))
        self.config: RunConfig = make_config(name, [stored, from_bundle, parse_overrides(overrides)])
        self.max_epochs = max_epochs
        self.output_dir = Path(output_dir)

    def run(self) -> Report | None:
        """Train, and score the held-out cases; everything is written to the run folder."""
        with distributed.processes(select_device(self.config.train.device)):
            return run.start(self.config, self.output_dir, _console())


class EngineEvaluator:
    """``cggm-med evaluate`` as a bundle's evaluator: scores a run on its validation cases.

    Args:
        run_dir: folder of the run.
        dataset: where the scans are.
        device: where to compute.
        val_handlers: must be empty, since the engine has no handlers.

    Raises:
        ConfigError: for handlers.
    """

    def __init__(
        self, run_dir: str, dataset: Scans, device: str | torch.device = "auto", val_handlers: Sequence[object] = ()
    ) -> None:
        _refuse(val_handlers)
        self.run_dir, self.dataset, self.device = Path(run_dir), dataset, str(device)

    def run(self) -> Report:
        """Score, and write tables and figures into the run folder."""
        overrides: Tree = {"data": {"path": os.path.abspath(self.dataset.data)}, "train": {"device": self.device}}
        return ask.evaluate_run(self.run_dir, overrides, _console(), split="validation", out=None)


class TrainedRun:
    """What inference needs of a run: settings that depend on the data, and weights.

    Args:
        folder: of a finished run of a segmentation task.

    Attributes:
        spacing: voxel size in mm that the network sees, along right, anterior and superior.
        rescaling: numbers of each modality that is not z-scored.
        convention: of the labels, in plain values.
        roi_size: voxels of a window.
        overlap: of windows.
        precision: in which the network computes.
        components: of regions, which stay in masks.
        facts: see ``run_facts``.

    Raises:
        CheckpointError: if the folder is no such run.
        ConfigError: if the run does not segment.
    """

    def __init__(self, folder: str) -> None:
        predictor = Predictor(Path(folder), "cpu")
        config = predictor.task.config
        self.run = predictor.run
        self.spacing = list(config.data.spacing)
        self.rescaling = config.data.rescaling
        self.convention = convention_tree(predictor.convention)
        self.roi_size, self.overlap = list(predictor.volumes.window_size), config.data.overlap
        self.precision = config.train.precision
        self.facts = run_facts(predictor, predictor.task.modalities)
        task = predictor.volumes
        self.components = dict(task.component_filter.kept) if isinstance(task, SegmentationTask) else {}

    def load(self, network: StackedModalities) -> StackedModalities:
        """The network with the run's weights.

        Raises:
            CheckpointError: if it is not the run's network.
        """
        self.run.restore(network.model, None, torch.device("cpu"))
        return network


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False, markup=False)


def _refuse(handlers: Sequence[object]) -> None:
    if handlers:
        raise ConfigError(
            f"{len(handlers)} handlers given, expected none: the engine logs, validates and saves by itself"
        )
