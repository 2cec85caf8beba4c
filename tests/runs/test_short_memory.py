"""A step that does not fit into memory is computed in more parts, which the run says; another training is refused."""

import json

import pytest
import torch
from helpers.small_runs import quiet, small_config
from torch import nn

from cggm_med import registry
from cggm_med.errors import ConfigError
from cggm_med.runs import train as run
from cggm_med.runs.finished_run import FinishedRun
from cggm_med.runs.short_memory import more_parts
from cggm_med.testing.runs import final_state
from cggm_med.training import loop

CPU = torch.device("cpu")


@pytest.fixture
def config(phantom, cache):
    return small_config(phantom, cache, train__epochs="1", train__batch_size="2")


def too_small(monkeypatch, samples, first=0):
    """Memory for steps of so many samples at once, from this step on; counts the steps that did not fit."""
    real, failed = loop.train_step, []

    def train_step(model, strategy, optimizer, criterion, batch, step, **options):
        at_once = len(batch.target) // options["settings"].accumulate
        if step.number >= first and at_once > samples:
            failed.append((step.number, at_once))
            raise torch.OutOfMemoryError
        return real(model, strategy, optimizer, criterion, batch, step, **options)

    monkeypatch.setattr(loop, "train_step", train_step)
    return failed


def test_it_is_the_training_that_was_in_parts_from_the_start(config, tmp_path, phantom, cache, monkeypatch):
    halves = small_config(phantom, cache, train__epochs="1", train__batch_size="2", train__accumulate="2")
    run.start(halves, tmp_path / "halves", quiet())
    failed = too_small(monkeypatch, 1)
    run.start(config, tmp_path / "run", quiet())
    assert failed == [(0, 2)]
    found, expected = (final_state(tmp_path / name)["model"] for name in ("run", "halves"))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_it_goes_on_from_the_last_checkpoint_and_says_so(config, tmp_path, monkeypatch):
    failed = too_small(monkeypatch, 1, first=3)
    run.start(config, tmp_path / "run", quiet())
    assert failed == [(3, 2)]
    assert list(FinishedRun(tmp_path / "run").parts) == [{"step": 2, "parts": 2}]
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4]  # the last is the validation
    said = (tmp_path / "run" / "log.txt").read_text()
    assert "memory is short: going on after step 2 with each batch of 2 in 2 parts" in said
    assert "computed in 2 parts after step 2" in (tmp_path / "run" / "results.md").read_text()


def strategy(config, name="joint", **settings):
    made = registry.load(registry.STRATEGIES, name)
    return made(made.Config(name=name, **settings))


def refused(config, parts=1, model=None, balancing=None):
    with pytest.raises(ConfigError) as error:
        more_parts(config, parts, model or nn.Identity(), balancing or strategy(config), CPU)
    return str(error.value)


def test_the_next_number_of_equal_parts(phantom, cache):
    config = small_config(phantom, cache, train__batch_size="6")
    parts = [1]
    while parts[-1] < 6:
        parts.append(more_parts(config, parts[-1], nn.Identity(), strategy(config), CPU))
    assert parts == [1, 2, 3, 6]
    assert refused(config, 6).startswith("the memory of cpu is too small for a step of 1 sample(s); take a smaller")


def test_what_would_be_another_training_is_refused(config, phantom, cache, monkeypatch):
    joined = small_config(phantom, cache, train__batch_size="2", task__batch_dice="true")
    assert "since task.batch_dice takes the Dice of all samples" in refused(joined)
    assert "choose that with train.accumulate=2" in refused(joined)
    assert "since the network normalises over the samples" in refused(config, model=nn.BatchNorm3d(2))
    guided = strategy(config, "cggm", guidance_weight=0.1)
    assert "strategy.guidance_weight is 0.1 with train.accumulate 2" in refused(config, balancing=guided)
    monkeypatch.setattr("cggm_med.distributed.world_size", lambda: 2)
    assert "in each process; set train.accumulate above 1" in refused(config)
