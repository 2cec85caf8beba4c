"""What is told of a validation that has stalled, and what a run that it ended says of itself."""

import json

import pytest
from helpers.small_runs import quiet, small_config

from cggm_med.config import TrainConfig
from cggm_med.errors import ConfigError
from cggm_med.runs import train as run
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.training.early_stopping import told_after, word


def said(stop_after=None, best=4, epochs=40):
    """The words of a run of one step an epoch, whose best validation is that of a step, by the step."""
    settings = TrainConfig(epochs=epochs, steps_per_epoch=1, validate_every=1, stop_after=stop_after)
    records = [{"step": step, "best": {"score": 0.5, "step": min(step, best)}} for step in range(1, epochs + 1)]
    return {record["step"]: line for record in records if (line := word(settings, record, "Dice mean"))}


def test_a_word_is_said_once_for_a_stall_of_a_fifth_of_all_validations():
    """A fifth of 40 is 8, and 4 + 8 is 12; of 12 it would be 3, and five are awaited: 4 + 5 is 9."""
    assert list(said()) == [12]
    assert list(said(epochs=12)) == [9]
    assert said(best=40) == said(best=33) == {}
    assert "Dice mean 0.500 at step 4" in said()[12]


def test_a_word_says_how_many_more_end_the_training():
    assert "2 more without an improvement end the training" in said(stop_after=10)[12]
    assert said(stop_after=8) == {}  # the end itself is told
    assert told_after(TrainConfig(epochs=3, validate_every=1)) == 5


def test_a_patience_that_is_none():
    with pytest.raises(ConfigError, match="train.stop_after is 0, expected at least 1"):
        TrainConfig(stop_after=0)


def test_a_run_says_where_validation_ended_it(tmp_path, phantom, cache):
    """Nothing is learned, so the first of 9 validations stays the best; five are told, and the sixth ends it."""
    length = {"train__epochs": "9", "train__steps_per_epoch": "1", "train__stop_after": "6", "optim__lr": "1e-12"}
    run.start(small_config(phantom, cache, **length), tmp_path / "run", quiet())
    log = [line.split(maxsplit=1)[1] for line in (tmp_path / "run" / "log.txt").read_text().splitlines()]
    told = [i for i, line in enumerate(log) if line.startswith("validation has stalled: none of the last 5")]
    ended = [i for i, line in enumerate(log) if line.startswith("training ended after step 7 of at most 9: none of")]
    assert len(told) == len(ended) == 1
    assert told < ended
    results = (tmp_path / "run" / "results.md").read_text()
    why = "none of the last 6 validations improved Dice mean (train.stop_after)"
    assert f"- steps: 7 of at most 9: {why}\n" in results
    assert FinishedRun(tmp_path / "run").steps == 7
    assert json.loads((tmp_path / "run" / "cost.json").read_text())["steps"] == 7
