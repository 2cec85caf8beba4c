"""The run logger for Weights & Biases: files in the run's folder, or its service where the environment says so."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from cggm_med.config import Tree
from cggm_med.errors import MissingExtra
from cggm_med.runs.loggers import Record, RunLogger, numbers

PROJECT = "cggm-med"


class WandB(RunLogger):
    """Numbers over ``step``, settings as the config, pictures as images.

    Without ``WANDB_MODE`` it is offline: all of it lies in the run's folder ``wandb`` until ``wandb sync`` sends it. A
    resumed run has the same id, and offline a second folder.
    """

    def __init__(self) -> None:
        self.mode = os.environ.get("WANDB_MODE", "offline")
        if self.mode == "offline":
            # Otherwise it reports its own errors to a host.
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError as error:
            raise MissingExtra("logger 'wandb'", error.name or "wandb", "wandb") from error
        self.package = wandb

    def start(self, folder: Path, config: Tree, step: int) -> None:
        """Begin a W&B run, or go on with the one that a resumed run has begun."""
        begun = sorted(path.name.rsplit("-", 1)[1] for path in (folder / "wandb").glob("*run-*-*"))
        self.run = self.package.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=begun[0] if begun else uuid.uuid4().hex[:12],
            name=folder.resolve().name,
            dir=str(folder),
            config=config,
            resume="allow",
            # The output stays with the run, which has a log of its own.
            settings=self.package.Settings(mode=self.mode, console="off", silent=True),
        )
        # An axis of our own: steps that come again after an interruption would be thrown away on W&B's.
        self.run.define_metric("*", step_metric="step")

    def record(self, record: Record) -> None:
        """Log every number under its name."""
        named = {f"{record['kind']}/{name}": value for name, value in numbers(record).items()}
        self.run.log({**named, "step": record["step"]})

    def picture(self, file: Path, step: int) -> None:
        """Show it under the name of its file."""
        self.run.log({f"figures/{file.stem}": self.package.Image(str(file)), "step": step})

    def close(self, error: BaseException | None) -> None:
        """Write what is still in memory, and whether the run failed."""
        self.run.finish(exit_code=0 if error is None else 1)
