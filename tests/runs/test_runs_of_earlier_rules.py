"""A run that a strategy's earlier rule began is resumed, compared and named by that rule, which it does not spell out."""

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

pytestmark = pytest.mark.usefixtures("no_pictures")

# Settings by which a new run follows the earlier rule, and the keys that runs of that time do not have.
EARLIER = {
    "ogm": ({"form": "continuous"}, ["schedule"]),
    "agm": ({"score": "head", "habit": "with"}, ["score", "habit", "cap"]),
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


@pytest.mark.parametrize("strategy", EARLIER)
def test_it_resumes_with_the_rule_it_began_with(strategy, tmp_path, phantom, cache, monkeypatch):
    settings, keys = EARLIER[strategy]
    words = {f"strategy__{key}": value for key, value in settings.items()}
    config = small_config(phantom, cache, strategy__name=strategy, **words)
    run.start(config, tmp_path / "whole", quiet())
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 7)
        run.start(config, tmp_path / "old", quiet())
    forget_keys(tmp_path / "old", keys)
    run.resume(tmp_path / "old", {}, quiet())
    forget_keys(tmp_path / "whole", keys)  # its settings stand in its folder as they do in the other's
    expect_same_run(tmp_path / "old", tmp_path / "whole")

    today = small_config(phantom, cache, strategy__name=strategy)
    run.start(today, tmp_path / "today", quiet())
    runs, _ = comparable_runs({tmp_path / "old": None, tmp_path / "today": None})
    spelt = ", ".join(f"{key}={settings[key]}" for key in settings)
    assert sorted(r.name for r in runs) == [strategy, f"{strategy}, {spelt}"]
