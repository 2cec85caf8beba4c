"""A benchmark as a user runs it, on generated cases that carry the names of its list."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from helpers import processes
from helpers.command_line import command, same_values

from cggm_med.comparison import experiment
from cggm_med.reproduction.outcome import MARK


@pytest.mark.slow
def test_a_benchmark_is_trained_scored_and_gone_on_with(tmp_path, cache, monkeypatch, capsys):
    monkeypatch.setattr(experiment.subprocess, "Popen", processes.Popen)
    out = tmp_path / "out"
    words = ["--set", f"data.cache={cache}", "--strategies", "joint", "--set", "data.workers=0"]
    shown = ("--json", tmp_path / "a.json")
    command(monkeypatch, "benchmark", "brats2023-im-fuse", "--phantom", *words, "-o", out, *shown)
    assert same_values(tmp_path / "a.json", out / "benchmark.json", "benchmark")
    first = out / "phantom" / "BraTS-GLI-00000-000"
    assert (first / f"{first.name}-t2f.nii.gz").exists()
    assert {*np.unique(nib.load(first / f"{first.name}-seg.nii.gz").dataobj)} <= {0, 1, 2, 3}
    run = out / "runs" / "joint" / "seed-0-split"
    splits = json.loads((run / "splits.json").read_text())
    assert splits["test"] == ["BraTS-GLI-00000-000", "BraTS-GLI-00011-000"]
    content = json.loads((out / "benchmark.json").read_text())
    assert content["what"] == MARK
    assert content["excluded"] == []
    assert len(content["rows"]) == 16 * 4
    assert len((out / "cases.csv").read_text().splitlines()) == 1 + 2 * 15 * 3
    page = (out / "benchmark.md").read_text()
    assert "| IM-Fuse (MICCAI 2025) | 90.2 | 85.5 | 74.3 | 83.3 | published |" in page
    assert "HD95 374 mm" in page
    capsys.readouterr()
    command(monkeypatch, "benchmark", "brats2023-im-fuse", "--phantom", *words, "-o", out)
    assert "1 of 1 runs are there already" in capsys.readouterr().out
    # The data of the same cases as a folder of somebody's, which is too small for the list.
    scans = shutil.copytree(out / "phantom", tmp_path / "scans")
    command(monkeypatch, "benchmark", "brats2023-im-fuse", "--data", scans, *words, "-o", tmp_path / "new", code=1)
    assert "lacks 1245 of the 1251 cases of brats2023-im-fuse: " in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
