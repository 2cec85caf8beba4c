"""The plug-in doors: a package with a metric and a run logger is installed with pip and trained with."""

import csv
import importlib
import json
import warnings
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from helpers.command_line import set_options
from helpers.packages import cggm_med, installed
from helpers.small_runs import small_settings
from monai.metrics import compute_average_surface_distance

from cggm_med.testing import check_metric

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return installed(HERE, tmp_path_factory.mktemp("installed"))


def test_the_guide_shows_the_metric_that_is_tested():
    code = (HERE / "plugin_metrics" / "assd.py").read_text()
    assert f"```python\n{code}```" in (ROOT / "docs" / "how-to" / "add-a-metric.md").read_text()


def test_the_metric_agrees_with_monai(monkeypatch):
    """Independent authority: MONAI's average surface distance, on blocks and voxels that are no cubes."""
    monkeypatch.syspath_prepend(HERE)
    assd = importlib.import_module("plugin_metrics.assd").assd
    spacing, random = (0.8, 1.5, 3.0), np.random.default_rng(0)
    for _ in range(10):
        masks = torch.zeros(2, 16, 16, 16, dtype=torch.bool)
        for mask in masks:
            x, y, z = random.integers(1, 9, 3)
            mask[x : x + 6, y : y + 5, z : z + 4] = True
        one_hot = masks[:, None, None].float()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
            theirs = compute_average_surface_distance(
                *one_hot, symmetric=True, include_background=True, spacing=spacing
            )
        assert assd(*masks, spacing) == pytest.approx(theirs.item(), rel=1e-5)


def test_the_metric_keeps_the_laws(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    check_metric(importlib.import_module("plugin_metrics.assd").ASSD)


@pytest.mark.slow
def test_the_metric_stands_in_every_table(environment, phantom, cache, tmp_path):
    """Trained once, scored again, reported and compared."""

    def done(*words):
        return cggm_med(environment, *words)

    folder = tmp_path / "run"
    flags = set_options(small_settings(phantom, cache))
    chosen = ["--set", "task.metrics=[assd_mm]"]
    said = done("train", "--preset", "tiny", "--strategy", "joint", "--out", folder, *flags, *chosen)
    assert "ASSD mm" in said
    assert "metrics:\n  - assd_mm\n" in (folder / "config.yaml").read_text()
    results = json.loads((folder / "results.json").read_text())
    rule = "mean distance of the voxels of both surfaces to the other surface, in mm; lower is better (package plugin-"
    assert results["rules"]["ASSD"].startswith(rule)
    assert "HD95 and ASSD 374 mm" in results["rules"]["empty region"]
    values = {row["region"]: row["assd_mean"] for row in results["summary"]}
    assert values["WT"] == pytest.approx(fmean(r["assd_mm"] for r in results["cases"] if r["region"] == "WT"))
    markdown = (folder / "results.md").read_text()
    assert f"## Chosen metrics\n\n| region | ASSD mm |\n| --- | --- |\n| WT | {values['WT']:.1f} |" in markdown
    assert f"- ASSD: {results['rules']['ASSD']}" in markdown

    done("evaluate", folder)
    again = json.loads((folder / "evaluations" / "test" / "results.json").read_text())
    assert again["cases"] == results["cases"]

    done("report", folder, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Chosen metrics" in page
    assert "ASSD mm" in page
    assert "assd_mm" in (tmp_path / "report_files" / "cases.csv").read_text().splitlines()[0]

    other = tmp_path / "other"
    done("train", "--preset", "tiny", "--strategy", "uniform", "--out", other, *flags, *chosen)
    done("compare", folder, other, "-o", tmp_path / "comparison")
    rows = json.loads((tmp_path / "comparison" / "comparison.json").read_text())["rows"]
    mine = {row["name"]: row for row in rows if row["score"] == "ASSD WT (lower is better)"}
    assert mine["joint"]["mean"] == pytest.approx(values["WT"])
    assert sorted(mine, key=lambda name: mine[name]["mean"]) == sorted(mine, key=lambda name: mine[name]["rank"])


@pytest.mark.slow
def test_its_logger_writes_every_loss_once_also_when_the_run_is_resumed(environment, phantom, cache, tmp_path):
    flags = set_options(small_settings(phantom, cache))
    words = ["train", "--preset", "tiny", "--out", tmp_path / "run", "--set", "train.loggers=[loss_table]", *flags]
    # Stopped after the last checkpoint, with a row that will come again.
    cggm_med(environment, *words, "--set", "train.checkpoint_every=100")
    (tmp_path / "run" / "checkpoints" / "last.pt").unlink()
    (tmp_path / "run" / "checkpoints" / "best.pt").unlink()
    cggm_med(environment, "train", "--resume", tmp_path / "run")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [(str(record["step"]), str(record["loss"])) for record in records if record["kind"] == "train"]
    with (tmp_path / "run" / "losses.csv").open(newline="") as file:
        assert [(row["step"], row["loss"]) for row in csv.DictReader(file)] == logged
    assert logged
    # It may be left out when the run goes on, since it changes no number.
    cggm_med(environment, "train", "--resume", tmp_path / "run", "--set", "train.loggers=[]")


def test_the_page_shows_the_logger_that_is_tested():
    page = (ROOT / "docs" / "how-to" / "add-a-logger.md").read_text()
    assert f"```python\n{(HERE / 'plugin_loggers' / 'loss_table.py').read_text()}```" in page
