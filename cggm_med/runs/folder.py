"""The layout of a run folder: the paths of its files, and readers for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cggm_med.config import RunConfig, Tree, flat, merge, read_file, to_tree
from cggm_med.data.splits import NAMES, Splits
from cggm_med.errors import CheckpointError
from cggm_med.files import did_you_mean, write_text
from cggm_med.lock import LOCK, holder
from cggm_med.trees import in_form, parse_json

# What 'cggm-med share' writes.
SHARED = ("*.json", "*.yaml", "*.safetensors", "README.md")
# Sections that say how a run is trained, but for where and in which parts its network computes and what it draws later.
OF_TRAINING = ("strategy", "optim", "train")
AFTER_TRAINING = ("train.device", "train.precision", "train.memory_format", "train.batch_size", "train.seed")


class RunFolder:
    """The paths of a run's files.

    Args:
        path: the folder itself.

    Attributes:
        path: the folder itself.
        config: resolved settings.
        splits: case ids of training, validation and test.
        data: digests of the files of each case that the run saw.
        groups: the patient, or what else no split divides, of each case; older runs lack it.
        facts: what the trained network needs besides settings and weights.
        initial: which weights of another run it started from; only of runs that did.
        ensemble: of an ensemble, the runs whose predictions are averaged.
        members: folder with these runs' settings and weights.
        launch: name of the torchrun that began the run, by which restarted processes know it as theirs; only of runs
            that one began.
        postprocessing: what was chosen on the validation cases after training, see ``Task.fit_postprocessing``; only
            of runs that choose something.
        coverage: which parameters belong to which modality.
        findings: what checks of the data saw, and what of it was accepted; older runs lack it.
        parts: since when the batch was computed in more parts, and in how many; only of runs whose memory ended.
        ended: where the training ended before its last step, and why; only of runs that did.
        cost: time and memory of the training, if it was not interrupted.
        results: scores of the held-out cases; exists once the run is finished.
        expectations: what is to be expected of masks from each subset of the modalities, once that was measured.
        metrics: one line per logged step or validation.
        log: what the training said, each line with its time; older runs lack it.
        gradients: last layers' gradients of some logged steps, one line per step.
        checkpoints: folder with ``last.pt`` and, if there is a validation split, ``best.pt``.
        viewer: folder with a page for each case, once 'cggm-med view RUN --all' wrote them.
        shared: the final weights, of a run that was passed on without its checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = _local(path)
        self.shared = path / "model.safetensors"
        self.config = path / "config.yaml"
        self.splits, self.data, self.facts = path / "splits.json", path / "data.json", path / "facts.json"
        self.groups, self.postprocessing = path / "groups.json", path / "postprocessing.json"
        self.findings = path / "findings.json"
        self.coverage, self.cost, self.results = path / "coverage.json", path / "cost.json", path / "results.json"
        self.ended, self.expectations = path / "ended.json", path / "expectations.json"
        self.metrics, self.gradients = path / "metrics.jsonl", path / "gradients.jsonl"
        self.log, self.parts = path / "log.txt", path / "parts.json"
        self.checkpoints = path / "checkpoints"
        self.initial, self.launch = path / "initial_weights.json", path / "torchrun.txt"
        self.viewer = path / "viewer"
        self.ensemble, self.members = path / "ensemble.json", path / "members"

    @property
    def weights(self) -> Path:
        """The run's final weights: the best checkpoint by validation, else the last."""
        if self.shared.exists():
            return self.shared
        best = self.checkpoints / "best.pt"
        return best if best.exists() else self.checkpoints / "last.pt"

    @property
    def held(self) -> bool:
        """Whether a process holds the folder, as one does that prepares a run before it writes the settings there."""
        return holder(self.path / LOCK) is not None

    def begun_by(self, launch: str | None) -> bool:
        """Whether the folder is a run that a torchrun of this name began."""
        return (
            launch is not None and self.config.exists() and self.launch.exists() and self.launch.read_text() == launch
        )

    def viewer_page(self, case: str) -> Path:
        """Where the page of a case is, if it was written."""
        return self.viewer / f"{case}.html"

    def stored_settings(self) -> Tree:
        """The settings in ``config.yaml``.

        Raises:
            CheckpointError: if the folder is not a run.
        """
        if not self.config.exists():
            near = f"it does not exist{did_you_mean(self.path)}"
            why = f"it has no {self.config.name}" if self.path.exists() else near
            raise CheckpointError(f"{self.path} is not a run folder: {why}; name the one that 'cggm-med train' printed")
        stored = read_file(self.config)
        if not isinstance(stored.get("task"), dict) or "name" not in stored["task"]:
            raise CheckpointError(f"{self.config} is damaged: it names no task; put back a whole copy")
        return stored

    def settings_with(self, overrides: Tree) -> RunConfig:
        """The run's settings, with ``overrides`` taking precedence.

        Raises:
            CheckpointError: if the overrides name another task or strategy, whose settings would be others.
        """
        # Imports torch, and who only asks whether a folder is a run does not wait for it.
        from cggm_med.runs.settings import make_config

        stored = self.stored_settings()
        for section in ("task", "strategy"):
            own, asked = (dict(tree.get(section) or {}).get("name") for tree in (stored, overrides))
            if asked is not None and asked != own:
                raise CheckpointError(
                    f"{self.path} is a run of {section} '{own}', not '{asked}'; leave that out, or train a new run"
                )
        return make_config(str(stored["task"]["name"]), [stored, overrides], stored=True)

    def settings_after_training(self, overrides: Tree) -> RunConfig:
        """The settings of a run that is used: ``overrides`` may change where and on what, not how it was trained.

        Raises:
            CheckpointError: if they change how it was trained.
        """
        config = self.settings_with(overrides)
        from cggm_med.runs.settings import completed

        before, now = (flat(tree) for tree in (completed(self.stored_settings()), to_tree(config)))
        if changed := [
            f"{key}: {before.get(key)} != {value}"
            for key, value in now.items()
            if before.get(key) != value and key.startswith(OF_TRAINING) and key not in AFTER_TRAINING
        ]:
            raise CheckpointError(
                f"{self.path} was trained with other settings (run != now): {'; '.join(changed)}; leave them out, or "
                "train a new run"
            )
        return config

    def on_other_data(self, overrides: Tree) -> Tree:
        """The overrides, by which data other than the run's do not inherit what was said of the run's own files.

        Args:
            overrides: of which ``data.path`` may name other data, and ``task.labels`` the convention of their labels.
        """
        stored = self.stored_settings()
        path, own = (tree.get("data", {}).get("path") for tree in (overrides, stored))
        same = own is not None and path is not None and Path(path).resolve() == Path(own).resolve()
        if path is None or same:
            return overrides
        said: Tree = {}
        if "labels" not in overrides.get("task", {}) and stored["task"].get("labels") is not None:
            said["task"] = {"labels": None}
        if "accept" not in overrides["data"] and stored.get("data", {}).get("accept"):
            said["data"] = {"accept": []}
        return merge([overrides, said])

    def device_setting(self, overrides: Tree) -> str:
        """``train.device`` of the overrides, else of the run."""
        for settings in (overrides, self.stored_settings()):
            if isinstance(settings.get("train"), dict) and "device" in settings["train"]:
                return str(settings["train"]["device"])
        return "auto"

    def read_splits(self) -> Splits:
        """The run's splits.

        Raises:
            CheckpointError: if they are missing or damaged.
        """
        try:
            content = in_form(parse_json(self.splits.read_text()), {name: [str] for name in NAMES})
            return Splits(**{name: tuple(content[name]) for name in NAMES})
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.path} is not a complete run folder: {self.splits.name} is missing or damaged; put back a "
                "whole copy"
            ) from error

    def digests(self, ids: Sequence[str]) -> set[str]:
        """Digests of the files of cases that the run saw.

        Raises:
            CheckpointError: if they are missing or damaged.
        """
        try:
            contents = in_form(parse_json(self.data.read_text()), {str: {str: str}})
            return {digest for id in ids for digest in contents[id].values()}
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{self.path} is not a complete run folder: {self.data.name} is missing or damaged, so it cannot be "
                "told which cases it was trained on; --split all scores everything, seen or not"
            ) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The records of ``metrics.jsonl``; a last line cut off by a crash is left out."""
        return [in_form(record, {"kind": str}) for record in _read_lines(self.metrics)]

    def read_gradients(self) -> list[dict[str, Any]]:
        """The records of ``gradients.jsonl``, see ``GradientLog``; none if the run has no such file."""
        return _read_lines(self.gradients) if self.gradients.exists() else []

    def forget_after(self, step: int) -> None:
        """Drop the records after a step, since these steps will be logged again.

        Raises:
            CheckpointError: if the records are damaged.
        """
        for path in (self.metrics, self.gradients):
            if path.exists():
                try:
                    kept = [record for record in _read_lines(path) if record["step"] <= step]
                except (OSError, ValueError) as error:
                    raise CheckpointError(
                        f"{path} is damaged ({type(error).__name__}: {error}); put back a whole copy, or remove it to "
                        "go on without the records up to now"
                    ) from error
                write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [in_form(parse_json(line), {"step": int}) for line in whole]


def _local(path: Path) -> Path:
    """The folder itself or, of ``hf://OWNER/NAME``, a copy of that repository of the Hugging Face Hub.

    Raises:
        CheckpointError: if it cannot be had.
    """
    scheme, _, name = str(path).partition("/")  # a Path holds hf://x as hf:/x
    if scheme != "hf:":
        return path
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(f"{path} needs huggingface_hub; install it with: pip install huggingface_hub") from error
    name = name.lstrip("/")
    try:
        return Path(snapshot_download(name, allow_patterns=[*SHARED]))
    except Exception as error:  # of the network, of names, of access: the library raises a dozen kinds
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"hf://{name} cannot be fetched ({said}); look at the name and the connection, or give a folder"
        ) from error
