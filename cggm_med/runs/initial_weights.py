"""Start a training from the weights of another run, as far as names and shapes agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cggm_med.errors import CheckpointError, ConfigError, first_of
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.held_out import require_held_out_unseen
from cggm_med.task.base import Task
from cggm_med.training import checkpoint as checkpoints

LISTED = 12  # tensors, or parts of the network, that one line names


def require_usable(folder: Path, task: Task) -> None:
    """Refuse a run from which a new one cannot start, before anything is written.

    Args:
        folder: of the other run.
        task: of the new run, prepared.

    Raises:
        CheckpointError: if the folder is no run.
        ConfigError: if it is an ensemble, or no layer of its network has the name and shape of a new one's.
        DataError: if it was trained on cases that the new run holds out, or chosen by cases that are tested.
    """
    run = FinishedRun(folder)
    if run.members:
        raise ConfigError(f"train.init={folder} is an ensemble; start from one of its runs")
    require_held_out_unseen(run, task, f"train.init={folder}")
    network = task.network()
    found, own = _copy(network, None, _weights(run)), network.state_dict()
    if not any(own[name].ndim > 1 for name in found["copied"]):  # a bias alone is no start
        raise ConfigError(
            f"train.init={folder}: no layer of its network has the name and shape of one of this network "
            f"({_example(found)}); start from a run of such a network, or without one"
        )


def start_from_run(
    folder: Path,
    model: MultimodalModel,
    heads: UnimodalHeads | None,
    known: Mapping[str, Any],
    say: Callable[[str], object],
) -> dict[str, Any]:
    """Copy a run's final weights into a new network and its classifier heads, and say what was copied and what was not.

    Args:
        folder: of the other run, see ``require_usable``.
        model: the new network, changed in place.
        heads: of the strategy, if it has any.
        known: what an earlier start of this run returned; empty if this is the first.
        say: receives the lists.

    Returns:
        ``run``, ``digest`` of its weights, how many ``values`` of parameters were copied and how many there are, and
        the names of the tensors that were ``copied``, are of ``other_shape`` (with both), ``new`` here, and ``unused``
        there.

    Raises:
        CheckpointError: if its weights have changed since an earlier start.
    """
    run = FinishedRun(folder)
    if known and known["digest"] != run.digest:
        raise CheckpointError(
            f"{folder} has other weights (digest {run.digest}) than those that this run started from "
            f"({known['digest']}); put these back, or start a new run"
        )
    found = _copy(model, heads, _weights(run))
    for line in _lines(folder, found):
        say(line)
    return {"run": str(folder), "digest": run.digest, **found}


def _weights(run: FinishedRun) -> dict[str, Tensor]:
    """The final weights of a run's network and classifier heads by name."""
    weights = checkpoints.load(run.folder.weights, torch.device("cpu"))
    return weights.model | {name: x for name, x in weights.strategy.items() if name.startswith("heads.")}


def _copy(model: MultimodalModel, heads: UnimodalHeads | None, theirs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Copy what agrees; names of the strategy's heads begin with ``heads.``, as those of heads inside the network."""
    own = _tensors(model) | ({} if heads is None else {f"heads.{name}": x for name, x in _tensors(heads).items()})
    parameters = {id(p) for module in (model, heads) if module is not None for p in module.parameters()}
    copied, other = [], {}
    values = [0, 0]
    for name, tensor in own.items():
        size = tensor.numel() if id(tensor) in parameters else 0
        values[1] += size
        if name not in theirs:
            continue
        if theirs[name].shape != tensor.shape:
            other[name] = [list(tensor.shape), list(theirs[name].shape)]
            continue
        with torch.no_grad():
            tensor.copy_(theirs[name])
        copied.append(name)
        values[0] += size
    return {
        "values": values,
        "copied": copied,
        "other_shape": other,
        "new": [name for name in own if name not in theirs],
        "unused": [name for name in theirs if name not in own],
    }


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name: the live ones, which copies change."""
    return module.state_dict(keep_vars=True)


def _lines(folder: Path, found: Mapping[str, Any]) -> list[str]:
    copied, total = found["values"]
    lines = [
        f"starting from {folder}: {copied / 1e6:.2f} of {total / 1e6:.2f} M parameters copied, in "
        f"{first_of(_parts(found['copied']), LISTED)}"
    ]
    if found["other_shape"]:
        shapes = [
            f"{name} {_shape(here)}, there {_shape(there)}" for name, (here, there) in found["other_shape"].items()
        ]
        lines.append(f"  of another shape, so drawn at random: {first_of(shapes, LISTED)}")
    for key, meaning in (("new", "not in that run, so drawn at random"), ("unused", "in that run alone")):
        if found[key]:
            lines.append(f"  {meaning}: {first_of(_parts(found[key]), LISTED)}")
    return lines


def _parts(names: list[str]) -> list[str]:
    """The parts of the network that tensors belong to, with their number."""
    counts: dict[str, int] = {}
    for name in names:
        part = ".".join(name.split(".")[:2])
        counts[part] = counts.get(part, 0) + 1
    return [f"{part} ({n} tensor{'s' * (n > 1)})" for part, n in counts.items()]


def _example(found: Mapping[str, Any]) -> str:
    """One example of what did not agree."""
    for name, (here, there) in found["other_shape"].items():
        return f"{name} is {_shape(here)} here and {_shape(there)} there"
    return f"here {found['new'][0]}, there {(found['unused'] or ['nothing'])[0]}"


def _shape(sizes: list[int]) -> str:
    return " x ".join(map(str, sizes))
