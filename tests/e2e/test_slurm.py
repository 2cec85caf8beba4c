"""A comparison as an array job of a real SLURM: submitted, preempted, gone on with, and collected."""

import time

import pytest
from helpers import processes, slurm
from helpers.command_line import command, set_options
from helpers.small_runs import small_settings

from cggm_med.comparison import experiment
from cggm_med.testing.runs import expect_same_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not slurm.installed(), reason="no slurmctld, slurmd and munge here"),
]
NOT_FINISHED = 75


def wait_for(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_preempted_runs_of_an_array_go_on_and_end_with_the_bits_of_runs_that_were_not(
    tmp_path, monkeypatch, phantom, cache, capsys
):
    often = {"train__epochs": "10", "train__checkpoint_every": "1", "train__validate_every": "10"}
    words = ["compare", "--strategies", "joint,cggm", "--seeds", "2", "--parallel", "2", "--preset", "tiny"]
    words += set_options(small_settings(phantom, cache, **often))
    out, here = tmp_path / "out", tmp_path / "here"
    on_slurm = (*words, "--out", out, "--launcher", "slurm", "--sbatch", "time=0:10:00")
    with slurm.cluster(monkeypatch, cpus=2):
        command(monkeypatch, *on_slurm, code=NOT_FINISHED)
        assert "submitted 4 runs as job 1" in capsys.readouterr().out
        wait_for(lambda: len(list(out.glob("runs/*/*/checkpoints/last.pt"))) == 2)
        slurm.ask("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        wait_for(lambda: "Restarts=1" in slurm.ask("scontrol", "show", "job", "1"))
        command(monkeypatch, *on_slurm, code=NOT_FINISHED)
        said = capsys.readouterr().out
        assert "submitted" not in said
        assert "0 of 4 runs are done" in said
        assert "pending" in said
        wait_for(lambda: not slurm.ask("squeue", "--noheader"))
        command(monkeypatch, *on_slurm)
    assert "written:" in capsys.readouterr().out
    monkeypatch.setattr(experiment.subprocess, "Popen", processes.Popen)
    command(monkeypatch, *words, "--out", here)
    runs = sorted(run.relative_to(here) for run in here.glob("runs/*/seed-?"))
    assert len(runs) == 4
    resumed = ["resuming at step" in (out / run / "log.txt").read_text() for run in runs]
    assert sum(resumed) == 2
    for run in runs:
        expect_same_run(out / run, here / run)
