"""Run loggers, which receive the records of a training run: ``metrics.jsonl`` and those that the settings name.

A record is a plain dictionary, the same as in a line of ``metrics.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from cggm_med import distributed, registry
from cggm_med.config import Tree
from cggm_med.errors import MissingExtra
from cggm_med.files import append_text
from cggm_med.runs.folder import RunFolder

Record = Mapping[str, Any]


class RunLogger(ABC):
    """Base of all loggers; created without arguments, in the first process only.

    A logger that raises any error is switched off with a warning, and training continues.
    """

    def start(self, folder: Path, config: Tree, step: int) -> None:  # noqa: B027 - not every logger needs it
        """Start; called once, before the first record.

        Args:
            folder: the run's folder, for files of the logger.
            config: all settings, as in ``config.yaml``.
            step: number of steps done: 0, or where a resumed run continues. Records of later steps that arrived before
                the interruption will arrive again.
        """

    @abstractmethod
    def record(self, record: Record) -> None:
        """Receive one record: ``kind`` (``train`` or ``validation``), ``step``, ``epoch``, and numbers by name."""

    def picture(self, file: Path, step: int) -> None:  # noqa: B027
        """Receive a picture of the finished run: curves, or contours on a held-out case.

        Args:
            file: PNG in the run's folder.
            step: number of steps of the run.
        """

    def close(self, error: BaseException | None) -> None:  # noqa: B027
        """Finish; called once, also when training or scoring ends with an error.

        Args:
            error: that ended it, an interruption included; None if the run is finished.
        """


class MetricsFile(RunLogger):
    """``metrics.jsonl``: one record per line."""

    def start(self, folder: Path, config: Tree, step: int) -> None:
        """See the base class."""
        self.path = RunFolder(folder).metrics

    def record(self, record: Record) -> None:
        """Append a line."""
        append_text(self.path, json.dumps(record) + "\n")


class TensorBoard(RunLogger):
    """Event files in the run's folder ``tensorboard``; view them with ``tensorboard --logdir FOLDER``."""

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("logger 'tensorboard'", "tensorboard", "tensorboard") from error
        self.make_writer = SummaryWriter

    def start(self, folder: Path, config: Tree, step: int) -> None:
        """Open a new event file, which hides later steps of an earlier one."""
        self.writer = self.make_writer(str(folder / "tensorboard"), purge_step=step + 1)

    def record(self, record: Record) -> None:
        """Add every number under its name."""
        for name, value in numbers(record).items():
            self.writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    def picture(self, file: Path, step: int) -> None:
        """Show it under the name of its file."""
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(f"figures/{file.stem}", pixels, step, dataformats="HWC")

    def close(self, error: BaseException | None) -> None:
        """Write the records that are still in memory."""
        self.writer.close()


def numbers(record: Record) -> dict[str, float]:
    """The numbers of a record by name; nested ones as ``name/key``. Undefined ones are left out.

    Example:
        >>> numbers({"kind": "train", "step": 10, "epoch": 0, "loss": 0.5, "score": {"t1": 0.25, "t2": None}})
        {'loss': 0.5, 'score/t1': 0.25}
    """
    flat: dict[str, float] = {}
    for name, value in record.items():
        if name not in ("kind", "step", "epoch"):
            parts = {f"{name}/{key}": x for key, x in value.items()} if isinstance(value, Mapping) else {name: value}
            flat |= {key: x for key, x in parts.items() if x is not None}
    return flat


def make_loggers(names: Sequence[str]) -> dict[str, RunLogger]:
    """The loggers that the settings name.

    Raises:
        UnknownName: if there is none of that name.
        PluginError: if one cannot be imported.
        MissingExtra: if one needs a package that is not installed.
    """
    return {name: registry.load(registry.LOGGERS, name)() for name in names}


class RunLog:
    """Passes every record to ``metrics.jsonl`` and the other loggers, in the first process; a context manager.

    The run is later read from ``metrics.jsonl``, so training stops if it cannot be written. Any other logger that fails
    is switched off and training continues. Its name, step and reason are printed at once and again at the end, and are
    recorded in ``metrics.jsonl`` with kind ``logger``.

    Args:
        loggers: by name, besides ``metrics.jsonl``.
        folder: the run's folder.
        config: all settings.
        step: number of steps done.
        say: prints a line.
    """

    def __init__(
        self, loggers: Mapping[str, RunLogger], folder: Path, config: Tree, step: int, say: Callable[[str], Any]
    ) -> None:
        self.first = distributed.rank() == 0
        self.active = dict(loggers) if self.first else {}
        self.folder, self.config, self.step, self.say = folder, config, step, say
        self.metrics = MetricsFile()
        self.failures: list[str] = []

    def __enter__(self) -> RunLog:
        self.metrics.start(self.folder, self.config, self.step)
        self._each(lambda logger: logger.start(self.folder, self.config, self.step))
        return self

    def __call__(self, record: Record) -> None:
        """Pass one record on."""
        self.step = record["step"]
        if self.first:
            self.metrics.record(record)
        self._each(lambda logger: logger.record(record))

    def pictures(self, files: Sequence[Path]) -> None:
        """Pass pictures of the finished run on."""
        for file in files:
            self._each(lambda logger, file=file: logger.picture(file, self.step))  # type: ignore[misc]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._each(lambda logger: logger.close(error))
        for failure in self.failures:
            self.say(f"warning: {failure}")

    def _each(self, call: Callable[[RunLogger], None]) -> None:
        for name, logger in list(self.active.items()):
            try:
                call(logger)
            except (Exception, SystemExit) as error:  # third-party code may do anything
                del self.active[name]
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self.failures.append(f"logger '{name}' failed at step {self.step} and was switched off: {reason}")
                self.say(f"warning: {self.failures[-1]}; training continues, and {self.metrics.path} has every record")
                self.metrics.record({"kind": "logger", "step": self.step, "logger": name, "error": reason})
                with contextlib.suppress(Exception, SystemExit):
                    logger.close(error)
