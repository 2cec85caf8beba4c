"""A comparison as a user runs it: real trainings in processes of their own, subsets, table, and going on."""

import csv
import json

import pytest
from helpers import processes
from helpers.command_line import command, set_options
from helpers.small_runs import small_settings

from cggm_med.comparison import experiment


@pytest.mark.slow
def test_train_compare_and_go_on(tmp_path, monkeypatch, phantom, cache, capsys):
    monkeypatch.setattr(experiment.subprocess, "Popen", processes.Popen)
    settings = set_options(small_settings(phantom, cache, train__epochs="1"))
    out = tmp_path / "out"
    words = (
        "compare",
        "--strategies",
        "joint,cggm[strategy.strength=0,strategy.unimodal_weight=0]",
        "--preset",
        "tiny",
    )
    words = (*words, *settings, "--subsets", "--parallel", "2", "--out", out)
    command(monkeypatch, *words, "--seeds", "1")
    content = json.loads((out / "comparison.json").read_text())
    assert not content["excluded"]
    scores = {row["score"] for row in content["rows"]}
    assert {"Dice mean", "Dice WT", "Dice mean, mean over subsets"} <= scores
    # Switched off, cggm trains the same bits as joint.
    for row in content["rows"][1::2]:
        assert row["name"] == "cggm, strength=0, unimodal_weight=0"
        assert row["difference"] == 0
    for run in content["runs"]:
        assert run["seconds"] > 0
        assert run["peak_memory_bytes"] > 10**8 > run["step_memory_bytes"] > 10**6
    joint, switched_off = (run["step_memory_bytes"] for run in content["runs"])
    assert abs(switched_off - joint) < 10**5  # the same network and heads, and a few numbers for each modality
    with (out / "comparison.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(content["rows"])
    capsys.readouterr()
    command(monkeypatch, *words, "--seeds", "2")
    assert "2 of 4 runs are there already" in capsys.readouterr().out
    assert len(json.loads((out / "comparison.json").read_text())["runs"]) == 4
