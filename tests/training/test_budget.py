"""A training that ends by its budget of hours, checkpoints by minutes, and the clock that both go by."""

import contextlib
import itertools
import json

import pytest
import torch
from helpers.small_runs import quiet, small_config
from helpers.toy_task import ToyValueTask, built, found, toy

from cggm_med import distributed
from cggm_med.config import TrainConfig
from cggm_med.errors import ConfigError
from cggm_med.runs import train as run
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.folder import RunFolder
from cggm_med.training import checkpoint, clock
from cggm_med.training.checkpoint import TrainingState
from cggm_med.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def tick(monkeypatch):
    """A clock that moves on by so many seconds whenever it is looked at; 900 of them are a step of a training."""
    time = itertools.count(0, 900)
    monkeypatch.setattr(clock.time, "monotonic", lambda: float(next(time)))


def trained(folder, resume=None, stop=None, validation=True, **train_settings):
    """The records of a training of 12 steps, how it ended, and its network; ``stop`` interrupts it after that step."""
    settings = {"epochs": 4, "steps_per_epoch": 3, "validate_every": 4, "checkpoint_every": 100, **train_settings}
    task = found(toy(ToyValueTask, **settings), folder)
    if not validation:
        task.splits = type(task.splits)(task.splits.train, (), task.splits.test)
    model, strategy = built(task)
    records, ended = [], None

    def log(record):
        records.append(record)
        if record["step"] == stop:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        ended = train(task, model, strategy, task.config, folder, device=CPU, log=log, resume=resume)
    return records, ended, model


def test_a_training_ends_with_the_step_in_which_its_budget_does(tmp_path, tick):
    """900 s a step: the hour is full with the fourth, which is validated and saved as a last one is."""
    records, ended, model = trained(tmp_path, hours=1)
    assert ended == (4, "its budget of 1 hours is spent (train.hours)")
    assert [(r["kind"], r["step"]) for r in records] == [("train", step) for step in (1, 2, 3, 4)] + [("validation", 4)]
    assert [r["seconds"] for r in records if r["kind"] == "train"] == [900, 1800, 2700, 3600]
    last, best = (checkpoint.load(tmp_path / f"{name}.pt", CPU) for name in ("last", "best"))
    assert (last.step, best.step) == (4, 4)
    assert all(torch.equal(last.model[name], x) for name, x in model.state_dict().items())


def test_the_steps_up_to_the_end_are_those_of_a_run_without_a_budget(tmp_path, tick):
    """Schedules go by the planned number of steps, so that a budget decides where a run ends and nothing else."""
    whole, _, _ = trained(tmp_path / "whole")
    part, _, _ = trained(tmp_path / "part", hours=1)
    for name in ("loss", "learning_rate"):
        assert [r[name] for r in part[:4]] == [r[name] for r in whole[:4]]


def test_the_end_of_a_budget_is_that_of_the_resumed_run_and_then_nothing_is_left(tmp_path, tick):
    trained(tmp_path, hours=1, stop=3, checkpoint_every=2)
    before = checkpoint.load(tmp_path / "last.pt", CPU)
    assert (before.step, before.seconds) == (2, 1800)
    records, ended, _ = trained(tmp_path, hours=1, resume=before)
    assert ended[0] == 4
    assert [r["seconds"] for r in records if r["kind"] == "train"] == [2700, 3600]
    last = checkpoint.load(tmp_path / "last.pt", CPU)
    assert trained(tmp_path, hours=1, resume=last)[:2] == ([], ended)


def test_a_budget_that_a_validation_spends_ends_with_that(tmp_path, tick):
    """The third step ends at 2700 s, and the validation after it at 3600 s."""
    records, ended, _ = trained(tmp_path, hours=1, validate_every=1)
    assert ended[0] == 3
    assert records[-1]["kind"] == "validation"
    last = checkpoint.load(tmp_path / "last.pt", CPU)
    assert (last.step, last.seconds, last.validated) == (3, 3600, True)


def test_nothing_is_validated_at_the_end_where_no_case_is_held_out(tmp_path, tick):
    records, ended, _ = trained(tmp_path, hours=1, validation=False)
    assert (ended[0], len(records)) == (4, 4)
    assert not (tmp_path / "best.pt").exists()


def test_a_training_that_reaches_its_last_step_in_time_has_not_ended_early(tmp_path, tick):
    assert trained(tmp_path, hours=3)[1] == (12, "")


@pytest.mark.parametrize(("settings", "saved"), [({}, [12]), ({"checkpoint_minutes": 40}, [3, 6, 9, 12])])
def test_a_checkpoint_is_written_when_so_many_minutes_have_passed(settings, saved, tmp_path, tick, monkeypatch):
    """Of 15 minutes a step, 40 are over after the third."""
    steps, save = [], TrainingState.save_last
    monkeypatch.setattr(TrainingState, "save_last", lambda self, step, **more: (steps.append(step), save(self, step)))
    trained(tmp_path, **settings)
    assert steps == saved


def test_processes_agree_where_they_wait_for_one_another(tmp_path, tick, monkeypatch):
    """The other process is 1000 s ahead; both learn of it where a step is logged, and end there."""
    looks = []

    def gather(content, device):
        looks.append(content)
        return [content, content + 1000 if isinstance(content, float) else content]

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "gather_json", gather)
            records, ended, _ = trained(tmp_path, hours=1, validation=False, log_every=2)
    finally:
        torch.distributed.destroy_process_group()
    assert [(r["step"], r["seconds"]) for r in records] == [(2, 1900), (4, 2800), (6, 3700)]
    assert ended[0] == 6
    assert looks == [0, 900.0, 0, 1800.0, 0, 2700.0]


@pytest.mark.parametrize("name", ["hours", "checkpoint_minutes"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none(name, value):
    with pytest.raises(ConfigError, match=f"train.{name} is .*, expected more than 0 and finite"):
        TrainConfig(**{name: value})


def test_a_run_says_that_its_budget_ended_it(tmp_path, phantom, cache, monkeypatch):
    length = {"train__epochs": "9", "train__steps_per_epoch": "1", "train__hours": "1e-9"}
    folder = tmp_path / "run"
    run.start(small_config(phantom, cache, **length), folder, quiet())
    why = "its budget of 1e-09 hours is spent (train.hours)"
    assert json.loads((folder / "ended.json").read_text()) == {"step": 1, "why": why}
    assert f" training ended after step 1 of at most 9: {why}\n" in (folder / "log.txt").read_text()
    assert f"- steps: 1 of at most 9: {why}\n" in (folder / "results.md").read_text()
    assert FinishedRun(folder).steps == 1
    before, scores = RunFolder(folder).read_metrics(), (folder / "results.json").read_text()
    run.resume(folder, {}, quiet())
    assert RunFolder(folder).read_metrics() == before
    assert json.loads((folder / "results.json").read_text())["cases"] == json.loads(scores)["cases"]
