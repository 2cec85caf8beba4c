"""A training that starts from another run's weights: what fits is copied and listed, once, and nothing else."""

import json
import shutil

import pytest
import torch
from helpers.command_line import command, set_options
from helpers.small_runs import small_config, small_settings, trained_run

from cggm_med.errors import CheckpointError
from cggm_med.runs.initial_weights import start_from_run
from cggm_med.runs.settings import instantiate
from cggm_med.training.build import build

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(phantom, cache, tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("source") / "run", phantom, cache, train__epochs="1")


def built(phantom, cache, **changes):
    """A new network and its strategy, as before the first step."""
    config = small_config(phantom, cache, **changes)
    task, strategy = instantiate(config)
    return build(task, strategy, config, CPU), strategy


def start(source, model, strategy, known=None):
    said = []
    return start_from_run(source, model, strategy.heads, known or {}, said.append), said


def test_the_same_network_starts_with_all_weights_of_the_run(source, phantom, cache):
    model, strategy = built(phantom, cache, train__seed="5")
    found, said = start(source, model, strategy)
    stored = torch.load(source / "checkpoints" / "best.pt", weights_only=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, stored["model"][name]), name
    for name, tensor in strategy.heads.state_dict().items():
        assert torch.equal(tensor, stored["strategy"][f"heads.{name}"]), name
    assert (
        found["values"][0]
        == found["values"][1]
        == sum(p.numel() for module in (model, strategy.heads) for p in module.parameters())
    )
    assert (found["other_shape"], found["new"], found["unused"]) == ({}, [], [])
    assert len(said) == 1
    # What balancing remembers is not weights.
    assert not strategy.seen.any()


def test_of_another_network_what_fits_is_copied_and_the_rest_is_listed(source, phantom, cache):
    model, strategy = built(phantom, cache, model__channels="[4,8,8]", task__modalities="[flair,t2]")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found, said = start(source, model, strategy)
    stored = torch.load(source / "checkpoints" / "best.pt", weights_only=True)["model"]
    after = model.state_dict()
    copied = [name for name in found["copied"] if name in after]
    assert copied
    for name, tensor in after.items():
        fits = name in stored and stored[name].shape == tensor.shape
        assert fits == (name in copied)
        assert torch.equal(tensor, stored[name] if fits else before[name]), name
    assert {name.split(".")[1] for name in copied if name.startswith("encoders.")} == {"flair", "t2"}
    assert any(name.startswith("encoders.t1ce.") for name in found["unused"])
    assert found["new"]  # the third scale
    text = "\n".join(said)
    for word in ("starting from", "encoders.flair (", "not in that run, so drawn at random", "in that run alone"):
        assert word in text


def test_other_shapes_are_listed_with_their_sizes(source, phantom, cache):
    model, strategy = built(phantom, cache, model__channels="[4,6]")
    found, said = start(source, model, strategy)
    name, shapes = next((n, s) for n, s in found["other_shape"].items() if len(s[0]) == 5)
    assert shapes[0] != shapes[1]
    assert "of another shape, so drawn at random" in "\n".join(said)
    assert f"{' x '.join(map(str, shapes[0]))}, there {' x '.join(map(str, shapes[1]))}" in "\n".join(said)
    assert name in "\n".join(said)


def test_it_is_stored_and_never_applied_again(source, tmp_path, monkeypatch, phantom, cache, capsys):
    flags = set_options(small_settings(phantom, cache, train__epochs="1"))
    moved = shutil.copytree(source, tmp_path / "source")
    run = tmp_path / "run"
    command(monkeypatch, "train", "--preset", "tiny", "--init", moved, "--out", run, *flags)
    assert f"starting from {moved}: " in capsys.readouterr().out
    initial = json.loads((run / "initial_weights.json").read_text())
    assert initial["run"] == str(moved)
    assert f"from run source, weights {initial['digest']}" in (run / "results.md").read_text()

    before = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]
    shutil.rmtree(moved)  # nothing is read from it
    command(monkeypatch, "train", "--resume", run)
    assert "starting from" not in capsys.readouterr().out
    after = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    command(monkeypatch, "train", "--resume", run, "--init", source, code=2)
    assert "--init cannot go with --resume" in " ".join(capsys.readouterr().err.split())


def test_a_start_that_was_cut_off_begins_with_the_same_weights(source, phantom, cache):
    model, strategy = built(phantom, cache)
    found, _ = start(source, model, strategy)
    assert start(source, model, strategy, found)[0] == found
    with pytest.raises(CheckpointError, match="has other weights"):
        start(source, model, strategy, {**found, "digest": "other"})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model__channels": "[3,5]"}, "no layer of its network has the name and shape"),
        ({"train__seed": "1"}, "was trained on"),  # other patients are held out
    ],
)
def test_a_run_of_which_nothing_fits_or_that_knows_too_much_is_refused(
    changes, says, source, tmp_path, monkeypatch, phantom, cache, capsys
):
    flags = set_options(small_settings(phantom, cache, train__epochs="1", **changes))
    command(monkeypatch, "train", "--preset", "tiny", "--init", source, "--out", tmp_path / "run", *flags, code=1)
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "run").exists()
    command(monkeypatch, "train", "--preset", "tiny", "--init", tmp_path, "--out", tmp_path / "run", *flags, code=1)
    assert "is not a run folder" in capsys.readouterr().err
