"""The question how well each encoder was trained: fit a linear probe to each modality's frozen features.

The same probe of an untrained network, the run's own classifier heads and its fused prediction are listed beside it.
"""

from __future__ import annotations

import time
from pathlib import Path

from cggm_med.errors import ConfigError
from cggm_med.evaluation.ask import Answer, Question
from cggm_med.evaluation.probe.figure import probe_figure
from cggm_med.evaluation.probe.samples import SampleProbe
from cggm_med.evaluation.probe.table import HEAD, READ_OUTS, UNTRAINED
from cggm_med.evaluation.probe.volumes import VolumeProbe
from cggm_med.metrics.classification_regression import FUSED
from cggm_med.results.results import Report
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.loaded_run import LoadedRun, Say
from cggm_med.task.base import Task


class ProbeQuestion(Question):
    """How well each encoder was trained, drawn in ``probe.png``; ``train.seed`` decides all random draws.

    Read-outs are fitted to the run's training split. Several processes each do the same.
    """

    folder = "probe"

    def __init__(self) -> None:
        self.started = time.monotonic()

    def check(self, task: Task, folder: Path) -> None:
        """Refuse tasks that offer neither volumes nor labelled samples, and ensembles."""
        if RunFolder(folder).ensemble.exists():
            raise ConfigError(
                f"{folder} is an ensemble, of which a modality has several encoders; probe its runs instead"
            )
        if task.volumes() is None and task.labelled_samples() is None:
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}'; a probe needs one that segments, tells classes "
                "apart or predicts values"
            )

    def answer(self, run: LoadedRun, say: Say) -> Answer:
        """Fit and score the probe of each modality."""
        self.modalities = run.task.modalities
        train = run.own("train", say)
        validation, reason = run.validation(say)
        samples = run.task.labelled_samples()
        self.probe: VolumeProbe | SampleProbe
        if samples is None:
            self.probe = VolumeProbe(run, train, validation)
        else:
            self.probe = SampleProbe(run, samples, train, validation)
        scores = self.probe.scores(say)
        seconds = f"{time.monotonic() - self.started:.0f}"
        self.written = f"results.json, results.csv and probe.png ({seconds} s)"
        rules = {
            **self.probe.rules(),
            "chosen by": self.probe.chosen_by(reason),
            UNTRAINED: "the same read-out of a network with the weights that training of this seed started from",
            HEAD: "the run's own classifier head of the modality, as it was trained; not every strategy has heads",
        }
        return Answer(scores, rules, {"seconds": seconds})

    def draw(self, folder: Path, report: Report) -> None:
        """Bars for each modality's read-outs."""
        panels = self.probe.panels(report.scores)
        probe_figure(folder / "probe.png", report.title, panels, self.modalities, READ_OUTS, FUSED)
