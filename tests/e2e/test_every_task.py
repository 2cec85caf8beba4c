"""Every task trains, evaluates and resumes through the command line, on generated data in its real layout."""

import json

import pytest
import yaml
from test_resume import Killed, equal, final_state, kill_at, metrics

from cggm_med import cli, registry

# The three that every task is tested with. OGM scores by the fused head's shares where it is linear, else by heads;
# MMPareto takes gradients apart; DGS leaves modalities out: between them they meet each side of a model.
THIRD = {
    "avdigits": "ogm_ge",
    "brats2021": "agm",
    "cremad": "opm",
    "food101": "mmpareto",
    "iemocap": "dgs",
    "iemocap_dialogue": "dgs",
    "kinetics_sounds": "ogm",
    "meld": "mmpareto",
    "mosei": "opm",
    "mosi": "mmpareto",
    "ucf101": "dgs",
}
EXTRA = {
    "brats2021": ["data.phantom_cases=6", "data.patch_size=[16,16,16]", "model.channels=[4,8]", "train.batch_size=2"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Generated data and converted files, shared by the tests."""
    return tmp_path_factory.mktemp("tasks")


def command(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["cggm-med", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


def flags(task, cache):
    settings = [f"data.cache={cache}", "train.epochs=2", "train.steps_per_epoch=2", "train.checkpoint_every=1"]
    settings += ["train.batch_size=4", "data.workers=0", "train.log_every=1", "train.validate_every=1"]
    return [word for setting in [*settings, *EXTRA.get(task, [])] for word in ("--set", setting)]


def test_every_task_is_tested():
    built_in = {name for name in registry.names(registry.TASKS) if name in THIRD or "plugin" not in name}
    assert built_in == set(THIRD)


@pytest.mark.parametrize("task", sorted(THIRD))
@pytest.mark.parametrize("which", ["joint", "cggm", "third"])
def test_it_trains_and_evaluates(task, which, folder, tmp_path, monkeypatch, capsys):
    strategy = THIRD[task] if which == "third" else which
    run = tmp_path / "run"
    command(monkeypatch, "train", "--task", task, "--strategy", strategy, "--out", run, *flags(task, folder))
    said = capsys.readouterr().out
    assert "no --data given" in said
    results = json.loads((run / "results.json").read_text())
    assert results["split"] == "test"
    assert results["provenance"]["data"] == "generated (not real data)"
    assert len({row["case"] for row in results["cases"]}) == len(json.loads((run / "splits.json").read_text())["test"])
    assert {row["modality"] for row in results["heads"]} == set(results["provenance"]["modalities"].split(", "))
    assert "## Where it comes from" in (run / "results.md").read_text()
    command(monkeypatch, "evaluate", run)
    again = json.loads((run / "evaluations" / "test" / "results.json").read_text())
    assert again["cases"] == results["cases"]
    assert again["heads"] == results["heads"]  # so no dropout is on
    assert again["headline"] == results["headline"]


@pytest.mark.parametrize("task", sorted(set(THIRD) - {"brats2021"}))
@pytest.mark.parametrize("which", ["joint", "cggm", "third"])
def test_it_resumes_with_the_same_bits(task, which, folder, tmp_path, monkeypatch):
    strategy = THIRD[task] if which == "third" else which
    words = ["train", "--task", task, "--strategy", strategy, *flags(task, folder)]
    command(monkeypatch, *words, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, 3)
        with pytest.raises(Killed):
            command(patch, *words, "--out", tmp_path / "killed")
    assert yaml.safe_load((tmp_path / "killed" / "config.yaml").read_text())["train"]["steps_per_epoch"] == 2
    command(monkeypatch, "train", "--resume", tmp_path / "killed")
    assert equal(final_state(tmp_path / "killed"), final_state(tmp_path / "whole"))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
