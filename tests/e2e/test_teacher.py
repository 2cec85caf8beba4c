"""A run that learns from networks trained on one modality each, through the command line."""

import json

import pytest
import torch
from helpers.command_line import command, set_options
from helpers.small_runs import small_settings, trained_run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, phantom, cache):
    """A finished run of one network a modality."""
    return trained_run(
        tmp_path_factory.mktemp("teacher") / "run",
        phantom,
        cache,
        strategy__name="unimodal_ensemble",
        train__epochs="1",
    )


def train(monkeypatch, out, phantom, cache, *words, code=0, **changes):
    flags = set_options(small_settings(phantom, cache, train__epochs="1", **changes))
    command(monkeypatch, "train", "--preset", "tiny", "--strategy", "umt", "--out", out, *flags, *words, code=code)


def test_umt_learns_from_the_run_and_needs_it_no_more(teacher, tmp_path, monkeypatch, phantom, cache):
    out = tmp_path / "run"
    train(monkeypatch, out, phantom, cache, "--set", f"strategy.teacher={teacher}")
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    distances = [record["losses"]["distillation"] for record in records if record["kind"] == "train"]
    assert 0 < distances[-1] < distances[0]
    weights = torch.load(out / "checkpoints" / "last.pt", weights_only=True)
    assert not [key for key in weights["strategy"] if "teacher" in key]
    teacher.rename(teacher.with_name("moved"))
    try:
        command(monkeypatch, "evaluate", out)
    finally:
        teacher.with_name("moved").rename(teacher)


def test_each_network_is_scored_as_the_subset_of_its_modality(teacher, monkeypatch):
    command(monkeypatch, "evaluate", teacher, "--subsets", "all")
    content = json.loads((teacher / "subsets" / "test" / "results.json").read_text())
    subsets = {row["subset"] for row in content["cases"]}
    assert {"flair", "t1", "t1ce", "t2", "flair+t1+t1ce+t2"} <= subsets


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__channels": "[4,6]"}, "model.channels is [4, 8], expected [4, 6]"),
        ({"train__seed": "1"}, "was trained on"),  # other patients are held out
    ],
)
def test_a_teacher_that_does_not_fit_or_saw_too_much_is_refused(
    changes, says, teacher, tmp_path, monkeypatch, phantom, cache, capsys
):
    words = ("--set", f"strategy.teacher={teacher}")
    train(monkeypatch, tmp_path / "run", phantom, cache, *words, code=1, **changes)
    assert says in capsys.readouterr().err


def test_without_a_teacher_it_says_how_to_make_one(tmp_path, monkeypatch, phantom, cache, capsys):
    train(monkeypatch, tmp_path / "run", phantom, cache, code=1)
    assert "train one with --strategy unimodal_ensemble" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_of_several_networks_is_no_bundle(teacher, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "bundle", "export", teacher, "--out", tmp_path / "bundle", code=1)
    assert "trains a network for each modality, and a bundle holds one network" in capsys.readouterr().err
