"""How well each encoder of a finished run was trained: a new linear read-out of each modality's frozen features.

Beside it stand the same read-out of an untrained network, the run's own classifier heads and its fused prediction.
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
from cggm_med.metrics.labels import FUSED
from cggm_med.results.results import Report
from cggm_med.runs.loaded import LoadedRun, Say
from cggm_med.task.base import Task


class ProbeQuestion(Question):
    """How well each encoder was trained, drawn in ``probe.png``; ``train.seed`` decides what is drawn at random.

    Read-outs are fitted to the run's training split. Several processes each do the same.
    """

    folder = "probe"

    def __init__(self) -> None:
        self.started = time.monotonic()

    def check(self, task: Task, folder: Path) -> None:
        """Refuse tasks for which no probe is known."""
        if task.volumes() is None and task.labelled_samples() is None:
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}'; a probe needs one that segments, tells classes "
                "apart or predicts values"
            )

    def measure(self, x: LoadedRun, say: Say) -> Answer:
        """What can be read out of each modality's frozen features."""
        self.modalities = x.task.modalities
        train = x.own("train", say)
        validation, reason = x.validation(say)
        samples = x.task.labelled_samples()
        self.probe: VolumeProbe | SampleProbe
        if samples is None:
            self.probe = VolumeProbe(x, train, validation)
        else:
            self.probe = SampleProbe(x, samples, train, validation)
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
        """Bars of each modality's read-outs."""
        panels = self.probe.panels(report.scores)
        probe_figure(folder / "probe.png", report.title, panels, self.modalities, READ_OUTS, FUSED)
