"""How long a run will take: what is counted, and that timing it changes nothing."""

import json
import re
from dataclasses import replace

import pytest
import torch
from helpers.command_line import command, set_options
from helpers.small_runs import SMALL

from cggm_med.config import TrainConfig
from cggm_med.runs.expected import Expected, expected, how_to_shorten
from cggm_med.testing.runs import expect_same_run
from cggm_med.training.pace import Pace

CPU = torch.device("cpu")


def test_by_hand():
    """100 steps of 0.5 + 0.3 s on a CPU; of 10 epochs the fourth, eighth and last are validated, 20 windows each."""
    settings = TrainConfig(epochs=10, steps_per_epoch=10, validate_every=4)
    pace = Pace(batch=0.3, step=0.5, sample=0.1)
    found = expected(settings, pace, CPU, windows=20, workers=2)
    assert (found.steps, found.validations) == (100, 3)
    assert found.seconds == pytest.approx(100 * 0.8 + 3 * 20 * 0.1)
    assert str(found) == "100 steps of 0.8 s and 3 validations: about 86 s"
    assert " and 1 validation: about " in str(replace(found, validations=1))
    # Resumed after five epochs: half of the steps, and two validations.
    rest = expected(settings, pace, CPU, windows=20, workers=2, done=50)
    assert (rest.steps, rest.validations) == (50, 2)
    # A GPU learns while others read, as long as they keep up.
    gpu = torch.device("cuda")
    assert expected(settings, pace, gpu, windows=0, workers=2).seconds == pytest.approx(50)
    assert expected(settings, Pace(3.0, 0.5, 0.1), gpu, windows=0, workers=2).seconds == pytest.approx(150)


def test_only_a_long_training_on_a_cpu_is_told_how_to_be_shorter():
    """10 hours for 50 epochs: an hour for 5; of one epoch of two hours nothing is left."""
    hours = {n: Expected(3.6, 0, steps=1000 * n, validations=0) for n in (1, 2, 10)}
    fifty = TrainConfig(epochs=50)
    assert how_to_shorten(fifty, hours[10], CPU).endswith("--epochs 5 takes about an hour")
    assert "--preset may be smaller" in how_to_shorten(TrainConfig(epochs=1), hours[2], CPU)
    assert how_to_shorten(fifty, hours[1], CPU) == how_to_shorten(fifty, hours[10], torch.device("cuda")) == ""


def test_it_is_said_before_the_first_step_and_changes_no_bit(phantom, tmp_path, monkeypatch, capfd):
    settings = set_options(SMALL)
    train = ["train", "--data", phantom, "--preset", "tiny", "--set", f"data.cache={tmp_path / 'cache'}", *settings]
    for name, least in (("plain", 10**9), ("timed", 1)):
        monkeypatch.setattr("cggm_med.runs.train.MIN_STEPS", least)
        command(monkeypatch, *train, "--out", tmp_path / name)
        lines = capfd.readouterr().out.splitlines()
        said = [i for i, line in enumerate(lines) if line.startswith("expected on cpu: ")]
        assert len(said) == (name == "timed")
        if said:
            assert re.search(r"\d+ steps of [\d.]+ s and \d+ validations?: about [\d.]+ (s|min); Ctrl", lines[said[0]])
            (memory,) = [
                i for i, line in enumerate(lines) if line.startswith("expected memory of the process on cpu: ")
            ]
            assert re.search(r"about [\d.]+ GB: weights and optimizer [\d.]+, a step [\d.]+, the rest", lines[memory])
            assert max(said[0], memory) < next(i for i, line in enumerate(lines) if line.startswith("step "))
    expect_same_run(tmp_path / "timed", tmp_path / "plain")
    assert json.loads((tmp_path / "timed" / "cost.json").read_text())["steps"] > 0
