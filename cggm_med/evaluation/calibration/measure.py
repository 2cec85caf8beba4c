"""Whether a finished run is as sure as it should be: calibration before and after temperature scaling.

ADR 0021 says on which voxels segmentation is judged, and to what the temperature is applied.
"""

from __future__ import annotations

from pathlib import Path

from cggm_med.errors import ConfigError
from cggm_med.evaluation.ask import Answer, Question
from cggm_med.evaluation.calibration.classes import ClassCalibration
from cggm_med.evaluation.calibration.regions import RegionCalibration
from cggm_med.evaluation.calibration.scores import COLDEST, HOTTEST, at_limit
from cggm_med.evaluation.calibration.table import Temperature
from cggm_med.results.results import Report
from cggm_med.runs.loaded import LoadedRun, Say
from cggm_med.task.base import Task


class CalibrationQuestion(Question):
    """Whether a run is as sure as it should be, drawn in ``calibration.png``.

    The temperature is fitted to the run's validation split, unless that is what is scored.
    """

    folder = "calibration"
    written = "results.json, results.csv and calibration.png"

    def check(self, task: Task, folder: Path) -> None:
        """Refuse runs that predict values, not probabilities."""
        samples = task.labelled_samples()
        if task.volumes() is None and (samples is None or samples.labels != "classes"):
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}', which predicts values without probabilities; "
                "calibration needs a run that segments or tells classes apart"
            )

    def measure(self, x: LoadedRun, say: Say) -> Answer:
        """Errors of the probabilities before and after temperature scaling."""
        self.temperature = _temperature(x, say)
        say(f"temperature: {self.temperature.rule}")
        say(f"scoring {len(x.cases)} cases ({x.split})")
        self.found = _calibration(x)
        scores = self.found.scores(self.temperature)
        rule = f"temperature: {self.temperature.rule}. T of 1: the probabilities as they are"
        return Answer(scores, {**self.found.rules(), "T": rule})

    def draw(self, folder: Path, report: Report) -> None:
        """Reliability diagrams."""
        self.found.draw(folder / "calibration.png", report.title, self.temperature)


def _calibration(x: LoadedRun) -> RegionCalibration | ClassCalibration:
    samples = x.task.labelled_samples()
    return RegionCalibration(x) if samples is None else ClassCalibration(x, samples)


def _temperature(x: LoadedRun, say: Say) -> Temperature:
    """Fit to the run's validation split, if there is one that is not scored itself."""
    validation, reason = x.validation(say)
    if validation is None:
        return Temperature(None, {}, f"none was fitted, since {reason}")
    say(f"fitting the temperature to {len(validation.cases)} validation cases")
    found = _calibration(validation)
    value, of_region = found.fit()
    limit = ""
    if at_limit(value):
        limit = f"; this is the end of the range {COLDEST:g} to {HOTTEST:g} that was looked at"
    return Temperature(
        value,
        of_region,
        f"{value:.4f}, fitted to the run's {len(validation.cases)} validation cases: the lowest negative "
        f"log-likelihood of {found.fitted_to}{limit}; all logits are divided by it, which changes no mask at "
        "threshold 0.5 and no predicted class",
    )
