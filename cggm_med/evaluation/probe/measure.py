"""How well each encoder of a finished run was trained: a new linear read-out of each modality's frozen features.

Beside it stand the same read-out of an untrained network, the run's own classifier heads and its fused prediction.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from cggm_med import distributed
from cggm_med.config import Tree
from cggm_med.errors import ConfigError
from cggm_med.evaluation.probe.figure import probe_figure
from cggm_med.evaluation.probe.samples import SampleProbe
from cggm_med.evaluation.probe.table import HEAD, READ_OUTS, UNTRAINED
from cggm_med.evaluation.probe.volumes import VolumeProbe
from cggm_med.evaluation.results_folder import write_results
from cggm_med.files import require_unused
from cggm_med.metrics.labels import FUSED
from cggm_med.results.results import Report, print_report
from cggm_med.runs.train import (
    checkpoint_rule,
    new_folder,
    open_finished,
    open_own,
    open_validation,
    provenance,
    speaker,
)
from cggm_med.task.base import Task
from cggm_med.task.classification import ClassificationTask
from cggm_med.task.regression import RegressionTask
from cggm_med.task.segmentation import SegmentationTask


def evaluate(folder: Path, overrides: Tree, console: Console, *, split: str | None, out: Path | None) -> Report:
    """Probe a finished run on its own held-out cases or on other data.

    Read-outs are fitted to the run's training split. Writes ``results.json``, ``results.csv``, ``results.md`` and
    ``probe.png``, all or nothing. Several processes each do the same.

    Args:
        folder: of the run.
        overrides: settings such as ``data.path``; ``train.seed`` decides what is drawn.
        console: for progress and tables.
        split: see ``run.open_finished``.
        out: folder that holds nothing yet; default: a new one inside the run folder.

    Raises:
        ConfigError: if no probe is known for the run's task.
        DataError: if the run's own training cases are no longer there, or are all of one class.
        OutputError: if ``out`` holds files already or cannot be written.
    """
    if out is not None:
        require_unused(out)
    started = time.monotonic()

    def check(task: Task) -> None:
        if not isinstance(task, (SegmentationTask, ClassificationTask, RegressionTask)):
            raise ConfigError(
                f"{folder} is a run of task '{task.config.task.name}'; a probe needs one that segments, tells classes "
                "apart or predicts values"
            )

    say = speaker(console)
    x = open_finished(folder, overrides, say, split=split, check=check)
    train = open_own(folder, overrides, say, split="train")
    validation, reason = open_validation(x, overrides, say)
    of_task = VolumeProbe if isinstance(x.task, SegmentationTask) else SampleProbe
    probe = of_task(x, train, validation)
    scores = probe.scores(say)
    seconds = time.monotonic() - started
    report = Report(
        task=x.config.task.name,
        strategy=x.config.strategy.name,
        split=x.split,
        scores=scores,
        rules={
            **probe.rules(),
            "chosen by": probe.chosen_by(reason),
            UNTRAINED: "the same read-out of a network with the weights that training of this seed started from",
            HEAD: "the run's own classifier head of the modality, as it was trained; not every strategy has heads",
            "checkpoint": checkpoint_rule(x.folder, x.task, x.weights, x.split),
        },
        provenance={**provenance(x.config, x.device), "seconds": f"{seconds:.0f}"},
    )
    target = out or new_folder(folder / "probe" / x.name, x.device)
    if distributed.rank() == 0:

        def draw(folder: Path) -> None:
            probe_figure(folder / "probe.png", report.title, probe.panels(scores), x.task.modalities, READ_OUTS, FUSED)

        write_results(target, report, draw)
        print_report(report, console)
        console.print(f"written: {target / 'results.md'}, results.json, results.csv and probe.png ({seconds:.0f} s)")
    return report
