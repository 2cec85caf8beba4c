"""A table of a paper as a user makes it again: on generated data, going on, and without the data."""

import json
import shutil

import pytest
from helpers import processes
from helpers.command_line import command

from cggm_med.comparison import experiment
from cggm_med.reproduction.outcome import MARK


@pytest.mark.slow
def test_a_figure_on_generated_data_and_going_on(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment.subprocess, "Popen", processes.Popen)
    out = tmp_path / "out"
    words = ("reproduce", "cggm/figure3", "--phantom", "--parallel", "2", "-o", out)
    command(monkeypatch, *words)
    first = json.loads((out / "table.json").read_text())
    assert first["what"] == MARK
    assert first["excluded"] == []
    assert [cell["runs"] for cell in first["cells"]] == [1] * 6
    errors = [cell for cell in first["cells"] if cell["column"] == "MAE"]
    assert all(0 <= cell["low"] <= cell["mean"] <= cell["high"] <= 6 for cell in errors)
    assert {
        f"{key}-{row}.png" for key in ("modality_scores", "gradient_norm") for row in ("cggm", "joint-training")
    } <= {*first["figures"]}
    assert all((out / "figures" / name).stat().st_size > 1000 for name in first["figures"])
    assert MARK in (out / "figures" / "gradient_norm.csv").read_text()
    capsys.readouterr()
    shutil.rmtree(out / "runs" / "joint")
    command(monkeypatch, *words)
    assert "2 of 3 runs are there already" in capsys.readouterr().out
    assert json.loads((out / "table.json").read_text())["cells"] == first["cells"]
    # The same folder with the data of the paper would be another experiment.
    command(monkeypatch, "reproduce", "cggm/figure3", "--data", tmp_path, "-o", out, code=1)
    assert "holds a run with other settings" in capsys.readouterr().err


def test_without_the_data_it_says_what_to_get(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "reproduce", "cggm/iemocap", code=1)
    said = capsys.readouterr().err
    for text in ("IEMOCAP", "A/comparE.h5", "sail.usc.edu", "--data PATH", "--phantom"):
        assert text in said
    assert len(said.splitlines()) < 24
    assert list(tmp_path.iterdir()) == []


def test_names_are_listed_and_wrong_ones_corrected(monkeypatch, capsys):
    command(monkeypatch, "reproduce", "--list")
    listed = capsys.readouterr().out
    assert "cggm/brats2021" in listed
    assert "5 of 20 published numbers known here" in listed
    command(monkeypatch, "reproduce", "cggm/brats", code=1)
    assert "Did you mean 'cggm/brats2021'?" in capsys.readouterr().err
    command(monkeypatch, "reproduce", "cggm/mosi", "--phantom", "--data", ".", code=2)
    assert "--phantom generates data" in capsys.readouterr().err
