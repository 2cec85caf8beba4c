"""A run that a strategy's earlier rule began is resumed, compared and named by that rule."""

import dataclasses

import pytest
import torch
import yaml
from helpers.resuming import Killed, kill_at
from helpers.small_runs import quiet, small_config

from cggm_med.comparison.selection import comparable_runs
from cggm_med.config import read_file
from cggm_med.runs import train as run
from cggm_med.runs.folder import RunFolder
from cggm_med.testing.runs import expect_same_run
from cggm_med.training import checkpoint as checkpoints

# By strategy: settings of any run of it, those by which a new run follows the earlier rule, and the keys that a run of
# that time does not have.
EARLIER = {
    "ogm": ({}, {"form": "continuous"}, ["schedule"]),
    "agm": ({}, {"score": "head", "habit": "with"}, ["score", "habit", "cap"]),
    "cggm": ({"mode": "released"}, {"score": "soft"}, ["score"]),
}


def forget_keys(folder, keys):
    """Make the folder one from before these keys of the strategy."""
    config = RunFolder(folder).config
    tree = read_file(config)
    for key in keys:
        del tree["strategy"][key]
    config.write_text(yaml.safe_dump(tree, sort_keys=False))
    last = RunFolder(folder).checkpoints / "last.pt"
    checkpoint = checkpoints.load(last, torch.device("cpu"))
    checkpoints.save(last, dataclasses.replace(checkpoint, config=tree))


@pytest.mark.filterwarnings("ignore:cggm mode=released is for comparison")
@pytest.mark.parametrize("strategy", EARLIER)
def test_it_resumes_with_the_rule_it_began_with(strategy, tmp_path, phantom, cache, monkeypatch):
    every, earlier, keys = EARLIER[strategy]

    def config(settings):
        words = {f"strategy__{key}": value for key, value in settings.items()}
        return small_config(phantom, cache, strategy__name=strategy, **words)

    run.start(config({**every, **earlier}), tmp_path / "spelt", quiet())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 7)
        run.start(config({**every, **earlier}), tmp_path / "old", quiet())
    forget_keys(tmp_path / "old", keys)
    run.resume(tmp_path / "old", {}, quiet())
    run.start(config(every), tmp_path / "today", quiet())

    # The same settings in both, and so one of them twice.
    runs, excluded = comparable_runs({tmp_path / "spelt": None, tmp_path / "old": None, tmp_path / "today": None})
    assert [r.path.name for r in runs] == ["spelt", "today"]
    assert excluded[0].reason == f"the same strategy, settings, seed and cases as {tmp_path / 'spelt'}"
    assert runs[0].name != runs[1].name
    assert not same_weights(tmp_path / "old", tmp_path / "today")
    forget_keys(tmp_path / "spelt", keys)
    expect_same_run(tmp_path / "old", tmp_path / "spelt")


def same_weights(folder, other):
    states = [
        checkpoints.load(RunFolder(f).checkpoints / "last.pt", torch.device("cpu")).model for f in (folder, other)
    ]
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])
