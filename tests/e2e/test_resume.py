"""A run that is killed and resumed ends with the same bits as one that was not."""

import json
import os
import signal
import time

import pytest
import torch
import yaml
from helpers import processes
from helpers.command_line import command, set_options
from helpers.resuming import Killed, kill_at
from helpers.small_runs import quiet, small_config, small_settings

from cggm_med.errors import CheckpointError
from cggm_med.runs import train as run
from cggm_med.stop import Stopped
from cggm_med.testing.runs import expect_same_run, final_state
from cggm_med.training import checkpoint as checkpoints
from cggm_med.training import loop

IN_A_GROUP = "import os; os.setsid(); from cggm_med.cli.app import main; main()"  # with the processes that it starts


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, phantom, cache):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run.start(small_config(phantom, cache, strategy__warmup_steps="2", data__augmentation="standard"), folder, quiet())
    return folder


@pytest.mark.parametrize("step", [1, 3, 5, 12])
def test_killed_in_a_step_and_resumed(step, uninterrupted, tmp_path, phantom, cache, monkeypatch):
    config = small_config(phantom, cache, strategy__warmup_steps="2", data__augmentation="standard")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, step)
        run.start(config, tmp_path / "run", quiet())
    run.resume(tmp_path / "run", {}, quiet())
    expect_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("strategy", ["opm", "ogm_ge", "dgs"])
def test_killed_with_draws_of_every_kind(strategy, tmp_path, phantom, cache, monkeypatch):
    """Dropped features, noise, coalitions, subsets of the modalities and a batch in parts; counters included."""
    changes = {
        "strategy__name": strategy,
        "train__accumulate": "2",
        "train__modality_dropout": "0.3",
        "train__modality_dropout_schedule": "annealed",
        "train__modality_dropout_draw": "subset",
        "model__fusion": "residual",
        "train__subset_view": "0.5",
        "train__subset_view_guided": "true",
        "train__log_shapley": "true",
        "train__log_every": "3",
        "train__ema_decay": "0.9",
    }
    config = small_config(phantom, cache, **changes)
    run.start(config, tmp_path / "whole", quiet())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 7)
        run.start(config, tmp_path / "run", quiet())
    run.resume(tmp_path / "run", {}, quiet())
    expect_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("where", "call", "saved"),
    [("train_step", 7, 7), ("train_step", 12, 12), ("validate", 1, 4), ("validate", 3, 12)],
)
def test_asked_to_stop_it_saves_the_last_step_and_goes_on_from_there(
    where, call, saved, uninterrupted, tmp_path, phantom, cache, monkeypatch
):
    """A step is finished first; a validation, due after every fourth, is left, and made when the run goes on."""
    config = small_config(phantom, cache, strategy__warmup_steps="2", data__augmentation="standard")
    calls, real = iter(range(1, 100)), getattr(loop, where)

    def asked(*args, **kwargs):
        if next(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return real(*args, **kwargs)

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(Stopped) as stopped:
        patch.setattr(loop, where, asked)
        run.start(config, tmp_path / "run", quiet())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert (stopped.value.saved, stopped.value.exit_code) == (saved, 128 + signal.SIGTERM)
    left = checkpoints.load(tmp_path / "run" / "checkpoints" / "last.pt", torch.device("cpu"))
    assert (left.step, left.validated) == (saved, saved % 4 != 0)
    run.resume(tmp_path / "run", {}, quiet())
    expect_same_run(tmp_path / "run", uninterrupted)
    said = [line.split(maxsplit=1)[1] for line in (tmp_path / "run" / "log.txt").read_text().splitlines()]
    assert [line for line in said if line.startswith(("stopped", "resuming", "finished"))] == [
        f"stopped by signal {signal.SIGTERM:d} after step {saved}",
        f"resuming at step {saved} of 12",
        f"finished, see {tmp_path / 'run' / 'results.md'}",
    ]


def test_killed_three_times_in_one_epoch_with_other_workers_each_time(
    uninterrupted, tmp_path, phantom, cache, monkeypatch
):
    config = small_config(
        phantom, cache, strategy__warmup_steps="2", data__augmentation="standard", train__checkpoint_every="1"
    )
    reference = tmp_path / "reference"
    run.start(config, reference, quiet())
    for attempt, workers in enumerate((0, 1, 2)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, 2)
            if attempt == 0:
                run.start(config, tmp_path / "run", quiet())
            else:
                run.resume(tmp_path / "run", {"data": {"workers": workers}}, quiet())
    run.resume(tmp_path / "run", {}, quiet())
    expect_same_run(tmp_path / "run", reference)


def test_killed_while_writing_a_checkpoint(uninterrupted, tmp_path, phantom, cache, monkeypatch):
    config = small_config(phantom, cache, strategy__warmup_steps="2", data__augmentation="standard")
    saves = iter(range(1, 100))
    real = torch.save

    def half_a_save(content, file):
        if next(saves) == 5:
            file.write(b"half")
            raise Killed
        real(content, file)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(torch, "save", half_a_save)
        run.start(config, tmp_path / "run", quiet())
    run.resume(tmp_path / "run", {}, quiet())
    expect_same_run(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("write", range(1, 7))
def test_killed_while_it_prepares(write, tmp_path, phantom, cache, monkeypatch, capsys):
    """Before the last of six files is there, it is no run yet; none of the two commands proposes the other."""
    config, writes = small_config(phantom, cache), iter(range(1, 100))

    def before(real):
        def die_or_write(*args):
            if next(writes) == write:
                raise Killed
            real(*args)

        return die_or_write

    with monkeypatch.context() as patch, pytest.raises(Killed):
        for name in ("write_text", "write_json", "write_splits"):
            patch.setattr(run, name, before(getattr(run, name)))
        run.start(config, tmp_path / "run", quiet())
    (tmp_path / "run").mkdir(exist_ok=True)  # a kill of this process would leave the folder
    command(monkeypatch, "train", "--resume", tmp_path / "run", code=1)
    assert "is not a run folder: it has no config.yaml" in capsys.readouterr().err
    if write > 1:
        command(monkeypatch, "train", "--out", tmp_path / "run", code=1)
        said = capsys.readouterr().err
        assert "already exists; choose another folder with --out" in said
        assert "--resume" not in said


def test_other_data_before_the_first_checkpoint(tmp_path, phantom, cache, monkeypatch):
    config = small_config(phantom, cache)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 1)
        run.start(config, tmp_path / "run", quiet())
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    file = tmp_path / "run" / "data.json"
    content = json.loads(file.read_text())
    content[sorted(content)[2]]["flair"] = "0" * 40
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"run was made with other data; what differs: {sorted(content)[2]}"):
        run.resume(tmp_path / "run", {}, quiet())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_really_ended(number, uninterrupted, tmp_path, phantom, cache):
    """At a moment of the machine's choosing; as a terminal and clusters do, its workers get the signal as well."""
    folder = tmp_path / "run"
    changes = {"strategy__warmup_steps": "2", "data__augmentation": "standard", "data__workers": "1"}
    flags = set_options(small_settings(phantom, cache, **changes))
    with open(tmp_path / "said", "w") as said:
        process = processes.Popen(["-c", IN_A_GROUP, "train", "--preset", "tiny", "--out", folder, *flags], stderr=said)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    os.killpg(process.pid, number)
    code, message = process.wait(), (tmp_path / "said").read_text()
    if number == signal.SIGKILL:
        assert code == -number
    else:
        assert code == 128 + number, message
        assert f"; continue with: cggm-med train --resume {folder}" in message
        assert "Traceback" not in message
    assert final_state(folder)["step"] <= 12
    run.resume(folder, {"data": {"workers": 0}}, quiet())
    expect_same_run(folder, uninterrupted)


def test_resuming_a_finished_run_only_scores_it_again(uninterrupted, tmp_path):
    import shutil

    shutil.copytree(uninterrupted, tmp_path / "run")
    run.resume(tmp_path / "run", {}, quiet())
    expect_same_run(tmp_path / "run", uninterrupted)


def test_a_run_that_is_older_than_a_setting_goes_on_with_its_default(
    uninterrupted, tmp_path, phantom, cache, monkeypatch
):
    """Encoder and fusion had no names once; what was trained then is what their defaults name."""
    folder = tmp_path / "run"
    config = small_config(phantom, cache, strategy__warmup_steps="2", data__augmentation="standard")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        run.start(config, folder, quiet())
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    last = folder / "checkpoints" / "last.pt"
    checkpoint = checkpoints.load(last, torch.device("cpu"))
    for tree in (stored, checkpoint.config):
        assert (tree["model"].pop("encoder"), tree["model"].pop("fusion")) == ("unet", "masked_mean")
    (folder / "config.yaml").write_text(yaml.safe_dump(stored))
    checkpoints.save(last, checkpoint)
    with pytest.raises(CheckpointError, match=r"other settings \(run != now\): model\.encoder: unet != residual;"):
        run.resume(folder, {"model": {"encoder": "residual"}}, quiet())
    run.resume(folder, {}, quiet())
    expect_same_run(folder, uninterrupted)
