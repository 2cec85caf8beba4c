"""The question whether a run is as sure as it should be: calibration before and after temperature scaling.

ADR 0021 says which voxels of a segmentation count, and what the temperature is applied to.
"""

from __future__ import annotations

from pathlib import Path

from cggm_med.errors import ConfigError, counted
from cggm_med.evaluation.ask import Answer, Question
from cggm_med.evaluation.calibration.classes import ClassCalibration
from cggm_med.evaluation.calibration.regions import RegionCalibration
from cggm_med.evaluation.calibration.scores import MAX_TEMPERATURE, MIN_TEMPERATURE, at_limit
from cggm_med.evaluation.calibration.table import Temperature
from cggm_med.results.results import Report
from cggm_med.runs.loaded_run import LoadedRun, Say
from cggm_med.task.base import Task


class CalibrationQuestion(Question):
    """Whether a run is as sure as it should be, drawn in ``calibration.png``.

    The temperature is fitted to the run's validation split, unless its cases are scored.
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

    def answer(self, run: LoadedRun, say: Say) -> Answer:
        """Calibration errors before and after temperature scaling."""
        self.temperature = _temperature(run, say)
        say(f"temperature: {self.temperature.rule}")
        say(f"scoring {counted(len(run.cases), 'case')} ({run.split})")
        self.calibration = _calibration(run)
        scores = self.calibration.scores(self.temperature)
        rule = f"temperature: {self.temperature.rule}. T of 1: the probabilities as they are"
        return Answer(scores, {**self.calibration.rules(), "T": rule})

    def draw(self, folder: Path, report: Report) -> None:
        """Reliability diagrams."""
        self.calibration.draw(folder / "calibration.png", report.title, self.temperature)


def _calibration(run: LoadedRun) -> RegionCalibration | ClassCalibration:
    samples = run.task.labelled_samples()
    return RegionCalibration(run) if samples is None else ClassCalibration(run, samples)


def _temperature(run: LoadedRun, say: Say) -> Temperature:
    """Fit the temperature to the run's validation split, if it has one whose cases are not scored."""
    validation, reason = run.validation(say)
    if validation is None:
        return Temperature(None, {}, f"none was fitted, since {reason}")
    say(f"fitting the temperature to {len(validation.cases)} validation cases")
    calibration = _calibration(validation)
    value, of_region = calibration.fit()
    limit = ""
    if at_limit(value):
        limit = f"; this is the end of the range {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g} that was looked at"
    return Temperature(
        value,
        of_region,
        f"{value:.4f}, fitted to the run's {len(validation.cases)} validation cases: the lowest negative "
        f"log-likelihood of {calibration.fitted_to}{limit}; all logits are divided by it, which changes no mask at "
        "threshold 0.5 and no predicted class",
    )
