"""Put what others need of a finished run into a folder to pass on: weights, settings and facts, without any name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml

from cggm_med.config import Tree
from cggm_med.errors import ConfigError
from cggm_med.files import atomic_folder, require_unused, write_json, write_text
from cggm_med.results.tables import markdown_table, rounded
from cggm_med.runs.expectations import Expectations, expectations_of
from cggm_med.runs.finished_run import FinishedRun, held_out
from cggm_med.runs.folder import RunFolder
from cggm_med.training import checkpoint as checkpoints

CARD = Path(__file__).with_name("templates") / "model_card.md"
# Settings that say where something lies on this machine, or which cases there are.
_PLACES = {"data": ("path", "cache", "splits", "fold"), "train": ("init",)}


def share(path: Path, folder: Path) -> None:
    """Write a folder that predicts, is scored and starts other runs as the run does; all or nothing.

    Cases are renamed ``train-1`` and so on: their names may say who they are. Which scan is which still shows in
    digests, by which ``evaluate`` refuses cases that the run was trained on.

    Args:
        path: of the finished run.
        folder: new or empty.

    Raises:
        CheckpointError: if the run has not ended or is incomplete.
        ConfigError: if it is an ensemble, or needs a file of this machine.
        OutputError: if ``folder`` holds files already or cannot be written.
    """
    require_unused(folder)
    run = FinishedRun(path)
    if run.members:
        raise ConfigError(f"{path} is an ensemble; share its runs, each by itself")
    run.require_ended()
    names = {id: f"{split}-{k}" for split, ids in run.splits.items() for k, id in enumerate(ids, start=1)}
    with atomic_folder(folder) as temporary:
        target = RunFolder(temporary)
        _write_weights(target, run)
        write_text(target.config, yaml.safe_dump(_without_places(run.settings), sort_keys=False))
        write_json(target.facts, _renamed(dict(run.facts), names))
        write_json(target.splits, {split: [names[id] for id in ids] for split, ids in run.splits.items()})
        write_json(target.data, {names[id]: dict(run.contents[id]) for id in names if id in run.contents})
        if run.ended:
            write_json(target.ended, dict(run.ended))
        if run.postprocessing:
            write_json(target.postprocessing, dict(run.postprocessing))
        expectations = _expectations(run)
        if expectations is not None:
            rows = [{**row, "case": names[row["case"]]} for row in expectations.rows]
            dataclasses.replace(expectations, run=FinishedRun(temporary).digest, rows=rows).write(target)
        write_text(temporary / "README.md", _card(run, folder.name, expectations))


def _write_weights(target: RunFolder, run: FinishedRun) -> None:
    whole = checkpoints.load(run.folder.weights, torch.device("cpu"))
    slim = dataclasses.replace(
        whole, best=run.best_of(whole), config={}, data={}, optimizer={}, monitor={}, schedule={}
    )
    checkpoints.save_shared(target.shared, slim)


def _without_places(settings: Tree) -> Tree:
    """Settings without what only this machine has."""
    emptied = {section: {**settings.get(section, {})} for section in _PLACES}
    for section, keys in _PLACES.items():
        emptied[section] |= {key: None for key in keys if key in emptied[section]}
    return {**settings, **emptied}


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """A tree of plain values in which each id of a case is its new name."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(of, names) for key, of in value.items()}
    if isinstance(value, list):
        return [_renamed(of, names) for of in value]
    return names.get(value, value) if isinstance(value, str) else value


def _expectations(run: FinishedRun) -> Expectations | None:
    """What was measured of its subsets, unless nothing was; what belongs to other weights is refused."""
    return expectations_of(run) if run.folder.expectations.exists() else None


def _card(run: FinishedRun, name: str, expectations: Expectations | None) -> str:
    """The model card, in the format of the Hugging Face Hub."""
    task = run.make_task({})
    segments = task.volumes() is not None
    convention = getattr(task, "conventions", {}).get(str(run.facts.get("labels")))
    split, scores = held_out(run.splits), None
    if split is not None:
        rows = [(metric, rounded(value)) for metric, value in run.report.scores.headline.items()]
        scores = markdown_table(("metric", "mean over cases"), rows)
    subsets = None
    if expectations is not None:
        table = [(subset, rounded(of.mean.dice_mean), str(of.cases)) for subset, of in expectations.subsets.items()]
        subsets = markdown_table(("given", "mean Dice", "cases"), table)
    train = run.settings["train"]
    training = {
        "task": run.task,
        "strategy": run.strategy,
        "seed": run.seed,
        "steps": run.steps,
        "training, validation and test cases": ", ".join(str(len(ids)) for _, ids in run.splits.items()),
        "exposed to subsets by": _exposure(train),
        "versions": run.report.provenance["versions"] if split is not None else f"cggm-med {version('cggm-med')}",
    }
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)  # noqa: S701 - Markdown
    return environment.from_string(CARD.read_text()).render(
        name=name,
        what=f"Segments {', '.join(task.targets)}" if segments else f"Predicts {', '.join(task.targets)}",
        modalities=run.modalities,
        version=version("cggm-med"),
        tags=["medical", "image-segmentation", "multimodal"] if segments else ["multimodal"],
        labels=dict(convention.meanings) if convention is not None else None,
        training=training,
        held_out="" if split is None else f"{len(getattr(run.splits, split))} held-out cases ({split})",
        scores=scores,
        subsets=subsets,
        subsets_of="" if expectations is None else f"{expectations.cases} cases ({expectations.split})",
    )


def _exposure(train: Mapping[str, Any]) -> str:
    used = [f"{key}={train[key]}" for key in ("modality_dropout", "subset_view") if train.get(key)]
    return ", ".join(used) or "nothing"
