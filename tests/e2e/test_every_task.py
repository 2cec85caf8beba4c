"""Every task trains, evaluates and resumes through the command line, on generated data in its real layout."""

import json

import pytest
import yaml
from helpers.command_line import command
from helpers.resuming import Killed, assert_same_run, kill_at

from cggm_med import registry

# The three that every task is tested with. OGM scores by the fused head's shares where it is linear, else by heads;
# MMPareto takes gradients apart; DGS leaves modalities out: between them they meet each side of a model.
THIRD = {
    "avdigits": "ogm_ge",
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Generated data and converted files, shared by the tests."""
    return tmp_path_factory.mktemp("tasks")


def flags(cache):
    settings = [f"data.cache={cache}", "train.epochs=2", "train.steps_per_epoch=2", "train.checkpoint_every=1"]
    settings += ["train.batch_size=4", "data.workers=0", "train.log_every=1", "train.validate_every=1"]
    return [word for setting in settings for word in ("--set", setting)]


def test_every_task_is_tested():
    """Segmentation is walked through by test_nifti_to_table and test_resume."""
    built_in = {
        name
        for name in registry.names(registry.TASKS)
        if registry.package(registry.TASKS, name).startswith("cggm-med ")
    }
    assert built_in - {"brats2021"} == set(THIRD)


@pytest.mark.parametrize("which", ["joint", "cggm", "third"])
@pytest.mark.parametrize("task", sorted(THIRD))
def test_it_trains_evaluates_and_resumes(task, which, folder, tmp_path, monkeypatch, capsys):
    strategy = THIRD[task] if which == "third" else which
    words = ["train", "--task", task, "--strategy", strategy, *flags(folder)]
    run, killed = tmp_path / "run", tmp_path / "killed"
    command(monkeypatch, *words, "--out", run)
    assert "no --data given" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert results["split"] == "test"
    assert results["provenance"]["data"] == "generated (not real data)"
    assert {row["case"] for row in results["cases"]} == set(json.loads((run / "splits.json").read_text())["test"])
    assert {row["modality"] for row in results["heads"]} == set(results["provenance"]["modalities"].split(", "))
    assert "## Where it comes from" in (run / "results.md").read_text()

    command(monkeypatch, "evaluate", run)
    again = json.loads((run / "evaluations" / "test" / "results.json").read_text())
    assert again["cases"] == results["cases"]
    assert again["heads"] == results["heads"]  # so no dropout is on
    assert again["headline"] == results["headline"]

    with monkeypatch.context() as patch:
        kill_at(patch, 3)
        with pytest.raises(Killed):
            command(patch, *words, "--out", killed)
    assert yaml.safe_load((killed / "config.yaml").read_text())["train"]["steps_per_epoch"] == 2
    command(monkeypatch, "train", "--resume", killed)
    assert_same_run(killed, run)
