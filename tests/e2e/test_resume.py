"""A run that is killed and resumed ends with the same bits as one that was not."""

import os
import signal
import time

import pytest
import torch
import yaml
from helpers import processes
from helpers.command_line import set_options
from helpers.resuming import Killed, kill_at
from helpers.small_runs import quiet, small_config, small_settings

from cggm_med.errors import CheckpointError
from cggm_med.runs import train as run
from cggm_med.testing.runs import expect_same_run, final_state
from cggm_med.training import checkpoint as checkpoints

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, phantom, cache):
    folder = tmp_path_factory.mktemp("whole") / "run"
    run.start(small_config(phantom, cache, strategy__warmup_steps="2", data__augmentation="standard"), folder, quiet())
    return folder


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 12])
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
    }
    config = small_config(phantom, cache, **changes)
    run.start(config, tmp_path / "whole", quiet())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 7)
        run.start(config, tmp_path / "run", quiet())
    run.resume(tmp_path / "run", {}, quiet())
    expect_same_run(tmp_path / "run", tmp_path / "whole")


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


@pytest.mark.slow
def test_a_process_that_is_really_killed(uninterrupted, tmp_path, phantom, cache):
    """SIGKILL at a moment of the machine's choosing."""
    folder = tmp_path / "run"
    settings = small_settings(phantom, cache, strategy__warmup_steps="2", data__augmentation="standard")
    flags = set_options(settings)
    process = processes.Popen(["-m", "cggm_med.cli", "train", "--preset", "tiny", "--out", folder, *flags])
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert final_state(folder)["step"] < 12
    run.resume(folder, {}, quiet())
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
