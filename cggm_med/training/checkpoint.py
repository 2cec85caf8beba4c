"""Checkpoints: written atomically, tensors and plain values only."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.optim import Optimizer

from cggm_med import distributed
from cggm_med.config import Tree
from cggm_med.errors import CheckpointError
from cggm_med.files import atomic_file
from cggm_med.optim.schedule import Plateau
from cggm_med.training import resume_check
from cggm_med.training.clock import Clock
from cggm_med.training.gradient_scale import GradientScale
from cggm_med.training.weight_average import WeightAverage
from cggm_med.trees import parse_json

FORMAT = 1
_ABOUT = "cggm-med"  # what safetensors say beside tensors, as JSON


@dataclass(frozen=True)
class Checkpoint:
    """Everything that training needs to continue as if it had never stopped.

    Random numbers need no state: they follow from the seed and the step, or from the seed, epoch and sample.

    Attributes:
        step: number of optimizer steps done.
        config: resolved settings of the run.
        data: digests of each prepared case.
        best: score, epoch and step of the best validation so far, if any.
        model, strategy, optimizer, monitor: state dictionaries.
        schedule: of the learning rate, where it depends on more than the step.
        seconds: of training, up to the last reading of its clock.
        validated: whether the validation that is due after this step, if one is, was finished.
        unaveraged: with ``train.ema_decay`` the weights that training continues from; ``model`` and ``strategy`` hold
            their average then, so that whoever reads a checkpoint predicts with it.
        gradient_scale: in float16, see ``GradientScale``.
    """

    step: int
    config: Tree
    data: Tree
    best: Mapping[str, float] | None
    model: dict[str, Any]
    strategy: dict[str, Any]
    optimizer: dict[str, Any]
    monitor: dict[str, Any]
    schedule: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    validated: bool = True
    unaveraged: dict[str, Any] = field(default_factory=dict)
    gradient_scale: dict[str, Any] = field(default_factory=dict)


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; an older one at ``path`` stays until the new one is on disk."""
    best = None if checkpoint.best is None else dict(checkpoint.best)
    content = {"format": FORMAT, **vars(checkpoint), "config": json.dumps(checkpoint.config), "best": best}
    with atomic_file(path) as file:
        torch.save(content, file)


def save_shared(path: Path, checkpoint: Checkpoint) -> None:
    """Write the states of the model and the strategy as safetensors; what else ``Checkpoint`` holds of use goes beside.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> weights = {"layer.weight": torch.ones(2)}
        >>> save_shared(file, Checkpoint(5, {}, {}, {"score": 0.5}, weights, {}, {}, {}))
        >>> again = load(file, torch.device("cpu"))
        >>> again.step, again.best, again.model["layer.weight"].tolist()
        (5, {'score': 0.5}, [1.0, 1.0])
    """
    states = {"model": checkpoint.model, "strategy": checkpoint.strategy}
    tensors, plain = {}, {}
    for part, state in states.items():
        for name, value in state.items():
            if torch.is_tensor(value):  # tensors that share memory cannot be written
                tensors[f"{part}.{name}"] = value.detach().cpu().clone().contiguous()
            else:
                plain[f"{part}.{name}"] = value
    best = None if checkpoint.best is None else dict(checkpoint.best)
    about = {"format": FORMAT, "step": checkpoint.step, "best": best, "plain": plain}
    with atomic_file(path) as file:
        file.write(safetensors.torch.save(tensors, {_ABOUT: json.dumps(about)}))


def _load_shared(path: Path, device: torch.device) -> dict[str, Any]:
    """The content of a file that ``save_shared`` wrote, as that of a checkpoint.

    Raises:
        CheckpointError: if it is damaged or another tool's.
    """
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            about = parse_json((file.metadata() or {})[_ABOUT])
            states: dict[str, dict[str, Any]] = {"model": {}, "strategy": {}}
            values = {name: file.get_tensor(name) for name in file.keys()} | about.pop("plain")  # noqa: SIM118
        for name, value in values.items():
            part, _, rest = name.partition(".")
            states[part][rest] = value
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged, or was not written by 'cggm-med share'; put a whole copy in its place"
        ) from error
    return {"config": "{}", "data": {}, "optimizer": {}, "monitor": {}, **states, **about}


def load(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Args:
        path: that ``save`` wrote, or that ``save_shared`` did, which ends in ``.safetensors``.
        device: for the tensors.

    Raises:
        CheckpointError: if the file is missing, damaged, or not one of ours.
    """
    content = _load_shared(path, device) if path.suffix == ".safetensors" else read_tensors(path, device)
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path} is not a checkpoint of a run; name another run folder")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {content['format']}, this version reads {FORMAT}; use the cggm-med that "
            "wrote it, which its run's results.md names, or a newer one"
        )
    try:
        del content["format"]
        return Checkpoint(**{**content, "config": parse_json(content["config"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of a run: {error}; name another run folder") from error


def read_tensors(path: Path, device: torch.device) -> Any:
    """Read a file of ``torch.save`` that holds tensors and plain values only; nothing in it is executed.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds anything else.
    """
    try:
        _require_whole(path)
        content = torch.load(path, map_location=device, weights_only=True)
        _require_stored(content)
        return content
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no checkpoint {path}; train first, copy the whole folder anew, or name another run folder"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}; allow it, or copy it anew") from error
    except Exception as error:  # a damaged archive or pickle may raise nearly any
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors and numbers; put a whole copy in its place, or train anew"
        ) from error


def _require_whole(path: Path) -> None:
    """Compare the checksums inside the file with its bytes; torch would silently load changed weights."""
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise zipfile.BadZipFile("torch compresses nothing, and what is compressed may be far larger than the file")
        if (changed := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {changed} is wrong")


def _require_stored(content: Any) -> None:
    """Raise `ValueError` for a tensor whose numbers are not all in the file, which would take memory without end."""
    if isinstance(content, Mapping):
        content = list(content.values())
    if isinstance(content, (list, tuple)):
        for part in content:
            _require_stored(part)
    elif torch.is_tensor(content):
        dense = content.layout is torch.strided and content.device.type != "meta"
        if not dense or content.numel() * content.element_size() > content.untyped_storage().nbytes():
            raise ValueError("a tensor is not stored as a whole")


def restore(
    checkpoint: Checkpoint,
    model: nn.Module,
    strategy: nn.Module | None,
    path: Path,
    optimizer: Optimizer | None = None,
    monitor: nn.Module | None = None,
    average: nn.Module | None = None,
) -> None:
    """Load the states into live objects: the strategy for scoring heads, all others for resuming.

    Raises:
        CheckpointError: if names or shapes of the weights do not fit, or a weight is NaN or infinite.
    """
    odd = [name for name, x in checkpoint.model.items() if torch.is_tensor(x) and not torch.isfinite(x).all()]
    if odd:
        raise CheckpointError(
            f"{path}: {len(odd)} of {len(checkpoint.model)} weights, such as {odd[0]}, hold NaN or infinity; train "
            "anew with a lower optim.lr, or put back a whole copy"
        )
    try:
        for live, state in (
            (model, checkpoint.model),
            (strategy, checkpoint.strategy),
            (optimizer, checkpoint.optimizer),
            (monitor, checkpoint.monitor),
            (average, checkpoint.unaveraged),
        ):
            if live is not None:
                live.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} does not fit this model, keep the settings of its run: {reason}") from error


class TrainingState:
    """The live objects of a training, saved and restored together, and the best validation so far.

    Args:
        folder: for ``last.pt`` and ``best.pt``.
        config: resolved settings of the run.
        data: digests of each prepared case.
        model, strategy, optimizer, monitor, plateau: the objects to save.
        average: of the weights of model and classifier heads.
        clock: of the training.
        scale: of the gradients.
    """

    def __init__(
        self,
        folder: Path,
        config: Tree,
        data: Tree,
        model: nn.Module,
        strategy: nn.Module,
        optimizer: Optimizer,
        monitor: nn.Module,
        plateau: Plateau,
        average: WeightAverage,
        clock: Clock,
        scale: GradientScale,
    ) -> None:
        self.folder, self.config, self.data = folder, config, data
        self.model, self.strategy, self.optimizer, self.monitor = model, strategy, optimizer, monitor
        self.plateau, self.average, self.clock, self.scale = plateau, average, clock, scale
        self.best: Mapping[str, float] | None = None

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.folder / "last.pt"

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of this run.

        Raises:
            CheckpointError: if it was made with other settings or data, or does not fit the model.
        """
        resume_check.require_same_run(self.last, checkpoint.config, self.config, checkpoint.data, self.data)
        restore(checkpoint, self.model, self.strategy, self.last, self.optimizer, self.monitor, self.average)
        self.average.exchange()
        self.plateau.load_state_dict(checkpoint.schedule)
        self.clock.continue_from(checkpoint.seconds)
        self.scale.continue_from(checkpoint.gradient_scale)
        self.best = checkpoint.best

    def save_last(self, step: int, *, validated: bool = True) -> None:
        """Write ``last.pt``, if this is the first process.

        Args:
            step: number of steps done.
            validated: whether a validation that is due after this step was finished; else it is made on resuming.
        """
        self._save(self.last, step, validated=validated)
        self.clock.saved = self.clock.seconds

    def save_if_best(self, score: float | None, step: int, epoch: int, *, lower_is_better: bool) -> None:
        """Write ``best.pt``, if no earlier validation was as good."""
        assert score is not None  # noqa: S101 - a task is chosen by a score that is always defined
        if self.best is None or (score < self.best["score"] if lower_is_better else score > self.best["score"]):
            self.best = {"score": score, "epoch": float(epoch), "step": float(step)}
            self._save(self.folder / "best.pt", step)

    def _save(self, path: Path, step: int, *, validated: bool = True) -> None:
        if distributed.rank() != 0:
            return
        with self.average.applied():
            live = (self.model, self.strategy, self.optimizer, self.monitor, self.average, self.plateau, self.scale)
            names = ("model", "strategy", "optimizer", "monitor", "unaveraged", "schedule", "gradient_scale")
            states: dict[str, Any] = dict(zip(names, (x.state_dict() for x in live), strict=True))
            states |= {"seconds": self.clock.seconds, "validated": validated}
            save(path, Checkpoint(step, self.config, self.data, self.best, **states))
