"""Losses of whole cases, which strategies ask for at the start of an epoch."""

from dataclasses import replace

import pytest
import torch
from helpers.small_runs import small_config
from helpers.toy_task import CPU, built, found, toy

from cggm_med import ConfigError, distributed
from cggm_med.data.splits import Splits
from cggm_med.runs.settings import instantiate
from cggm_med.training import checkpoint
from cggm_med.training.build import build
from cggm_med.training.loop import train
from cggm_med.training.mean_losses import mean_losses


def divided(task, train, validation):
    ids = sorted(task.samples)
    task.splits = Splits(tuple(ids[:train]), tuple(ids[train : train + validation]), ())
    return task


def test_they_are_the_criterion_over_all_samples_whatever_the_batches(tmp_path):
    """Five cases in batches of four, against one batch of five; as many training cases as validation cases."""
    task = divided(found(toy(model={"dropout_output": 0.5}), tmp_path), 12, 5)
    model, strategy = built(task)
    for split, cases in (("validation", task.splits.validation), ("train", task.splits.train[:5])):
        losses = mean_losses(task, model, strategy, task.criterion(), task.config, CPU, split)
        task.settle(train=replace(task.config.train, batch_size=5))
        (batch,) = task.evaluation_batches(cases)
        with torch.no_grad():
            features = model.encode(batch.inputs)
            logits = {"task": model(batch.inputs)} | {m: x.logits for m, x in strategy.unimodal(features).items()}
        assert losses.keys() == logits.keys() == {"task", "text", "audio"}
        for name, loss in losses.items():
            torch.testing.assert_close(loss, task.criterion()(logits[name], batch.target))
        assert not model.training


def test_processes_share_the_cases_and_their_sums_are_those_of_one(tmp_path, monkeypatch):
    """Of three processes and two cases, one has none and still takes part."""
    task = divided(found(toy(), tmp_path), 12, 2)
    model, strategy = built(task)
    whole, parts = [], []
    for rank, size, sums in ((0, 1, whole), (0, 3, parts), (1, 3, parts), (2, 3, parts)):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world_size", lambda size=size: size)
        monkeypatch.setattr(distributed, "sum_over_processes", lambda x, sums=sums: sums.append(x) or x)
        mean_losses(task, model, strategy, task.criterion(), task.config, CPU, "validation")
    torch.testing.assert_close(torch.stack(parts).sum(0), whole[0])


def test_without_validation_cases_one_line_says_what_to_set(tmp_path):
    task = divided(found(toy(), tmp_path), 12, 0)
    model, strategy = built(task)
    with pytest.raises(ConfigError, match=r"no.*validation|none; set data\.validation"):
        mean_losses(task, model, strategy, task.criterion(), task.config, CPU, "train")


def test_patches_of_a_scan_are_the_same_at_each_call(phantom, cache):
    task, strategy = instantiate(small_config(phantom, cache))
    task.find(lambda line: None)
    task.prepare(task.default_splits(), lambda line: None)
    model = build(task, strategy, task.config, CPU)
    arguments = (task, model, strategy, task.criterion(), task.config, CPU)
    first, second, other = (mean_losses(*arguments, split) for split in ("validation", "validation", "train"))
    assert first.keys() == {"task", *task.modalities}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["task"], other["task"])


def test_every_epoch_is_announced_once_also_when_a_run_is_resumed(tmp_path):
    """Before its first step, with losses that are computed only when asked for."""
    task = found(toy(epochs=3, steps_per_epoch=2, checkpoint_every=2, validate_every=9), tmp_path)
    heard = []

    def run(folder, resume=None):
        model, strategy = built(task)
        strategy.start_epoch = lambda network, epoch, losses: heard.append((epoch, network is model, losses))
        train(task, model, strategy, task.config, folder, device=CPU, log=lambda record: None, resume=resume)

    run(tmp_path / "whole")
    assert [(epoch, own) for epoch, own, _ in heard] == [(0, True), (1, True), (2, True)]
    assert set(heard[-1][2]("validation")) == {"task", "text", "audio"}
    last = checkpoint.load(tmp_path / "whole" / "last.pt", CPU)
    heard.clear()
    run(tmp_path / "again", replace(last, step=4))
    assert [epoch for epoch, *_ in heard] == [2]
