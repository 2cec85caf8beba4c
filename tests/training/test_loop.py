"""The training loop and its step: what plain torch does, what is learned, and which checkpoint is the best."""

import contextlib

import pytest
import torch
from helpers.toy_task import ToyValueTask, built, found, toy

from cggm_med.config import OptimConfig
from cggm_med.device import precision, select_device
from cggm_med.objectives.losses import RegionLoss
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.results.results import Scores
from cggm_med.strategies.cggm import CGGM, CGGMConfig
from cggm_med.strategies.joint import Joint
from cggm_med.testing.problems import CPU, one_step, set_up, small_batch, small_model, trained
from cggm_med.training import checkpoint
from cggm_med.training.build import build
from cggm_med.training.loop import train
from cggm_med.training.monitor import Monitor
from cggm_med.training.validation import evaluate_cases


def test_a_joint_step_is_what_plain_torch_does():
    """Independent authority: the same step written out with autograd and torch's own optimizer."""
    config = OptimConfig(clip_norm=0.5)
    model = trained(Joint(Joint.Config("joint")), steps=2, optim=config)
    other = small_model()
    optimizer = torch.optim.AdamW(other.parameters(), config.lr, weight_decay=config.weight_decay)
    for step in range(2):
        batch = small_batch(step)
        loss = RegionLoss()(other(batch.inputs), batch.target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), config.clip_norm)
        optimizer.step()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, msg=name)


def test_training_lowers_the_loss():
    model, strategy = small_model(), CGGM(CGGMConfig("cggm"))
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(lr=1e-2), CPU)
    losses = [one_step(model, strategy, optimizer, small_batch(), number)["task"].item() for number in range(30)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_step_in_bfloat16_applies_the_factor():
    device = select_device("cuda")
    model, strategy = small_model().to(device), CGGM(CGGMConfig("cggm", warmup_steps=0))
    set_up(strategy, model)
    strategy.to(device)
    optimizer = make_optimizer(model, strategy, OptimConfig(), device)
    autocast = precision("auto", device)
    for step in range(3):
        monitor = Monitor(3).to(device)
        losses = one_step(model, strategy, optimizer, small_batch(step), step, autocast=autocast, monitor=monitor)
    assert all(torch.isfinite(x) for x in losses.values())
    assert strategy.factor.mean().item() == pytest.approx(1, abs=1e-5)


def test_every_strategy_starts_with_the_same_model(phantom, cache):
    from cggm_med.registry import STRATEGIES, names
    from cggm_med.runs.settings import instantiate, make_config

    states = []
    for name in names(STRATEGIES):
        task, strategy = instantiate(make_config("brats2021", [], strategy=name))
        states.append(build(task, strategy, task.config, CPU).state_dict())
    assert all(torch.equal(state[key], states[0][key]) for state in states for key in state)


@pytest.mark.parametrize(("lower", "best"), [(True, 3), (False, 2)])
def test_the_best_checkpoint_has_the_best_score_and_survives_resuming(lower, best, tmp_path, monkeypatch):
    """Validation scores 2, 4, 1, 1: the lowest first stands after epoch 3, the highest after epoch 2."""
    values = (2.0, 4.0, 1.0, 1.0)

    def run(folder, epochs, resume=None):
        task = found(toy(ToyValueTask, epochs=4, steps_per_epoch=1, checkpoint_every=1), tmp_path)
        task.lower_is_better = lower
        model, strategy = built(task)
        epoch = iter(range(resume.step if resume else 0, epochs))

        def summarise(results):
            assert tuple(result.case for result in results) == task.splits.validation
            number = next(epoch, None)
            if number is None:
                raise KeyboardInterrupt
            return Scores({"MAE": values[number], "Corr": None}, (), (), (), ())

        task.summarise = summarise
        records = []
        settings = {"device": CPU, "log": records.append, "resume": resume}
        with contextlib.suppress(KeyboardInterrupt):
            train(task, model, strategy, task.config, folder, **settings)
        return [record["scores"] for record in records if record["kind"] == "validation"]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, 4) == [{"MAE": value, "Corr": None} for value in values]
    chosen = checkpoint.load(whole / "best.pt", CPU)
    assert (chosen.step, chosen.best["score"]) == (best, values[best - 1])
    assert checkpoint.load(whole / "last.pt", CPU).best == {"score": values[best - 1], "epoch": best - 1, "step": best}
    run(killed, 2)  # ends within the third validation, before its checkpoint
    run(killed, 4, checkpoint.load(killed / "last.pt", CPU))
    again = checkpoint.load(killed / "best.pt", CPU)
    assert again.best == chosen.best
    assert all(torch.equal(again.model[name], x) for name, x in chosen.model.items())


def test_heads_are_scored_without_dropout_and_learn_with_it(tmp_path):
    """Scored twice, a head says the same; the next step of training drops again."""
    task = found(toy(model={"dropout_output": 0.5, "dropout_residual": 0.5}), tmp_path)
    model, strategy = built(task)
    cases, config = task.splits.train, task.config
    scored = [evaluate_cases(task, model, strategy, cases, config, device=CPU, full=True) for _ in range(2)]
    assert [result.findings for result in scored[0]] == [result.findings for result in scored[1]]
    modes = []
    unimodal = strategy.unimodal
    strategy.unimodal = lambda features: modes.append((model.training, strategy.heads.training)) or unimodal(features)
    train(task, model, strategy, task.config, tmp_path, device=CPU, log=lambda record: None)
    assert set(modes) == {(True, True)}
