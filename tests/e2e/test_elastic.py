"""A training that loses a process, or goes on with another number of them, ends as if nothing had happened."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import processes
from helpers.command_line import command, set_options
from helpers.forked import together
from helpers.small_runs import quiet, small_config, small_settings

from cggm_med.runs import train as runs
from cggm_med.runs.folder import RunFolder
from cggm_med.stop import Stopped
from cggm_med.training import loop

# Plain SGD: Adam would turn differences of rounding into differences of sign.
CHANGES = {"optim__name": "sgd", "optim__lr": "0.05", "strategy__warmup_steps": "0", "train__batch_size": "4"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, phantom, cache):
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    runs.start(small_config(phantom, cache, **CHANGES), folder, quiet())
    return folder


def ends_as(folder, expected):
    one, other = (torch.load(x / "checkpoints/last.pt", weights_only=True) for x in (expected, folder))
    assert one["step"] == other["step"] == 12
    for part in ("model", "strategy"):
        for name, value in one[part].items():
            torch.testing.assert_close(other[part][name], value, rtol=1e-3, atol=1e-4, msg=name)
    records = RunFolder(folder).read_metrics()
    assert [record["step"] for record in records if record["kind"] == "train"] == [*range(1, 13)]


def stopped_after(steps, config, folder):
    """Train until the first process has done some steps and is asked to stop."""
    done, train_step = [0], loop.train_step

    def step(*args, **options):
        done[0] += 1
        if done[0] == steps and torch.distributed.get_rank() == 0:
            signal.raise_signal(signal.SIGTERM)
        return train_step(*args, **options)

    loop.train_step = step
    with pytest.raises(Stopped):
        runs.start(config, folder, quiet())


def test_a_run_of_two_processes_goes_on_with_one(undisturbed, phantom, cache, tmp_path):
    together(2, stopped_after, 6, small_config(phantom, cache, **CHANGES), tmp_path / "run")
    runs.resume(tmp_path / "run", {}, quiet())
    ends_as(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_process_costs_the_steps_since_the_last_checkpoint(undisturbed, phantom, cache, tmp_path):
    run = RunFolder(tmp_path / "run")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=1"]
    train = ["-m", "cggm_med.cli", "train", "--preset", "tiny", "--out", run.path]
    settings = set_options(small_settings(phantom, cache, **CHANGES))
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    torchrun = processes.Popen([*launch, *train, *settings], env=environment)
    while not (run.metrics.exists() and '"step": 3' in run.metrics.read_text()):
        assert torchrun.poll() is None
        time.sleep(0.01)
    first, _ = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGKILL)
    assert torchrun.wait() == 0
    assert re.search("resuming at step [2468] of 12", run.log.read_text())
    assert run.results.exists()
    ends_as(run.path, undisturbed)


@pytest.mark.parametrize(
    ("told", "out", "fix"),
    [
        ({"USE_AGENT_STORE": "True"}, True, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
        ({"RUN_ID": "none"}, True, "--rdzv-id NAME"),
        ({}, False, "--out RUN"),
    ],
)
def test_restarts_that_could_not_go_on_are_refused(told, out, fix, phantom, tmp_path, monkeypatch, capsys):
    for name, value in {"MAX_RESTARTS": "3", "RUN_ID": "mine", "USE_AGENT_STORE": "False", **told}.items():
        monkeypatch.setenv(f"TORCHELASTIC_{name}", value)
    words = ["--out", tmp_path / "run"] if out else []
    command(monkeypatch, "train", "--data", phantom, *words, code=1)
    assert fix in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_only_the_torchrun_that_began_a_run_goes_on_with_it(undisturbed):
    run = RunFolder(undisturbed)
    assert not run.begun_by("mine")
    run.launch.write_text("another")
    assert [run.begun_by(launch) for launch in ("mine", None, "another")] == [False, False, True]
    run.launch.unlink()


def test_a_rehearsal_goes_on_with_no_run(undisturbed, phantom, monkeypatch, capsys):
    run = RunFolder(undisturbed)
    run.launch.write_text("mine")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    before = sorted(run.path.iterdir())
    command(monkeypatch, "train", "--data", phantom, "--out", undisturbed, "--dry-run", code=1)
    assert f"--resume {undisturbed}" in capsys.readouterr().err.replace("\n", " ")
    assert sorted(run.path.iterdir()) == before
    run.launch.unlink()
