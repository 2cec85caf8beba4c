"""Whether a finished run is as sure as it should be: calibration before and after temperature scaling.

ADR 0021 says on which voxels segmentation is judged, and to what the temperature is applied.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cggm_med import distributed
from cggm_med.config import Tree
from cggm_med.errors import ConfigError
from cggm_med.evaluation.calibration.classes import ClassCalibration
from cggm_med.evaluation.calibration.regions import RegionCalibration
from cggm_med.evaluation.calibration.scores import COLDEST, HOTTEST, at_limit
from cggm_med.evaluation.calibration.table import Temperature
from cggm_med.evaluation.results_folder import write_results
from cggm_med.files import require_unused
from cggm_med.results.results import Report, print_report
from cggm_med.runs.train import (
    FinishedRun,
    checkpoint_rule,
    new_folder,
    open_finished,
    open_validation,
    provenance,
    speaker,
)
from cggm_med.task.base import Task
from cggm_med.task.classification import ClassificationTask
from cggm_med.task.segmentation import SegmentationTask


def evaluate(folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None) -> Report:
    """Calibration of a finished run on its own held-out cases or on other data.

    The temperature is fitted to the run's validation split, unless that is what is scored. Writes ``results.json``,
    ``results.csv``, ``results.md`` and ``calibration.png``, all or nothing.

    Args:
        folder: of the run.
        overrides: settings such as ``data.path``.
        console: for progress and tables.
        split: see ``run.open_finished``.
        out: folder that holds nothing yet; default: a new one inside the run folder.

    Raises:
        ConfigError: if the run predicts values, not probabilities.
        OutputError: if ``out`` holds files already or cannot be written.
    """
    if out is not None:
        require_unused(out)

    def check(task: Task) -> None:
        if not isinstance(task, (SegmentationTask, ClassificationTask)):
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}', which predicts values without probabilities; "
                "calibration needs a run that segments or tells classes apart"
            )

    say = speaker(console)
    x = open_finished(folder, overrides, say, split=split, check=check)
    of_task = RegionCalibration if isinstance(x.task, SegmentationTask) else ClassCalibration
    temperature = _temperature(x, overrides, of_task, say)
    say(f"temperature: {temperature.rule}")
    say(f"scoring {len(x.cases)} cases ({x.split})")
    found = of_task(x)
    scores = found.scores(temperature)
    report = Report(
        task=x.config.task.name,
        strategy=x.config.strategy.name,
        split=x.split,
        scores=scores,
        rules={
            **found.rules(),
            "T": f"temperature: {temperature.rule}. T of 1: the probabilities as they are",
            "checkpoint": checkpoint_rule(x.folder, x.task, x.weights, x.split),
        },
        provenance=provenance(x.config, x.device),
    )
    target = out or new_folder(folder / "calibration" / x.name, x.device)
    if distributed.rank() == 0:
        write_results(target, report, lambda folder: found.draw(folder / "calibration.png", report.title, temperature))
        print_report(report, console)
        console.print(f"written: {target / 'results.md'}, results.json, results.csv and calibration.png")
    return report


def _temperature(
    x: FinishedRun,
    overrides: Tree,
    of_task: type[RegionCalibration] | type[ClassCalibration],
    say: Callable[[str], None],
) -> Temperature:
    """Fit to the run's validation split, if there is one that is not scored itself."""
    validation, reason = open_validation(x, overrides, say)
    if validation is None:
        return Temperature(None, {}, f"none was fitted, since {reason}")
    say(f"fitting the temperature to {len(validation.cases)} validation cases")
    found = of_task(validation)
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
