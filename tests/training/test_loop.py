"""The training loop and its step: what plain torch does, what is learned, and which checkpoint is the best."""

import contextlib
import dataclasses
import itertools
import math
import statistics

import pytest
import torch
from helpers.small_runs import small_config
from helpers.toy_task import ToyTask, ToyValueTask, built, found, toy

from cggm_med.config import OptimConfig
from cggm_med.device import precision, select_device
from cggm_med.errors import ConfigError
from cggm_med.objectives.region_loss import RegionLoss
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.results.results import Scores
from cggm_med.runs.settings import instantiate
from cggm_med.strategies.cggm import CGGM, CGGMConfig
from cggm_med.strategies.joint import Joint
from cggm_med.testing.problems import CPU, PROBLEMS, one_step, set_up, small_batch, small_model, trained
from cggm_med.training import checkpoint
from cggm_med.training.build import build
from cggm_med.training.cost import StepMemory
from cggm_med.training.loop import train
from cggm_med.training.monitor import Monitor
from cggm_med.training.validation import evaluate_cases, require_watchable, validate
from cggm_med.types import Batch


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


@pytest.mark.filterwarnings("ignore:.* is for comparison:UserWarning")
@pytest.mark.parametrize("name", ["cggm", "mmpareto", "dgs", "inforeg"])
def test_channels_last_changes_last_bits_alone(name, phantom, cache):
    """The weights of a step are the same but for rounding, and keep their format, whatever touches the gradients."""

    def weights(memory_format):
        config = small_config(phantom, cache, train__memory_format=memory_format, strategy__name=name)
        task, strategy = instantiate(config)
        model = build(task, strategy, config, CPU)
        optimizer = make_optimizer(model, strategy, config.optim, CPU)
        random = torch.Generator().manual_seed(0)
        target = (torch.rand(2, 3, 16, 16, 16, generator=random) > 0.5).float()
        inputs = {m: target[:, :1] + torch.randn(2, 1, 16, 16, 16, generator=random) for m in model.modalities}
        one_step(model, strategy, optimizer, Batch(inputs, target, ("a", "b")))
        return dict(model.named_parameters())

    usual, last = weights("contiguous"), weights("channels_last")
    for key, weight in last.items():
        torch.testing.assert_close(weight, usual[key], rtol=1e-4, atol=1e-5, msg=key)
        assert weight.ndim != 5 or weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert sum(weight.ndim == 5 and not weight.is_contiguous() for weight in last.values()) > 8


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


@pytest.mark.filterwarnings("ignore:.* is for comparison:UserWarning")
def test_every_strategy_starts_with_the_same_model(phantom, cache):
    from cggm_med.registry import STRATEGIES, names
    from cggm_med.runs.settings import instantiate, make_config

    states = {}
    for name in {*names(STRATEGIES)} - {"unimodal_ensemble"}:  # which trains other networks
        task, strategy = instantiate(make_config("brats2021", [], strategy=name))
        states[name] = build(task, strategy, task.config, CPU).state_dict()
    joint = states["joint"]
    assert all(torch.equal(state[key], joint[key]) for state in states.values() for key in joint)
    assert {name for name in states if states[name].keys() != joint.keys()} == {"residual_dropout"}  # with heads inside


def test_other_weights_leave_all_else_as_it_is(phantom, cache):
    """Splits and patches follow from the seed; all weights differ, those of the heads too, and from seed to seed."""
    parts = []
    for settings in ({}, {}, {"init_seed": "1"}, {"init_seed": "2"}, {"init_seed": "1", "seed": "1"}):
        config = small_config(phantom, cache, **{f"train__{key}": value for key, value in settings.items()})
        task, strategy = instantiate(config)
        model = build(task, strategy, config, CPU)
        parts.append((task.find(print), task.default_splits(), model, strategy))
    found, splits, model, strategy = parts[0]
    assert parts[1][:2] == parts[2][:2] == parts[3][:2] == (found, splits)
    assert parts[4][1] != splits
    drawn = [{**model.state_dict(), **strategy.state_dict()} for *_, model, strategy in parts]
    assert all(torch.equal(drawn[0][key], drawn[1][key]) for key in drawn[0])
    random = [key for key, value in drawn[0].items() if ("conv" in key and value.ndim == 5) or "heads" in key]
    for a, b in itertools.combinations([0, 2, 3, 4], 2):
        assert not any(torch.equal(drawn[a][key], drawn[b][key]) for key in random)


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


def logged(folder, optim=None, kind=ToyValueTask, scripted=None, resume=None, stop=None, **train_settings):
    """The records of a run, and its network; ``scripted`` are validation scores, ``stop`` ends it in a validation."""
    task = found(toy(kind, **train_settings), folder)
    task.settle(optim=optim or task.config.optim)
    model, strategy = built(task)
    if scripted is not None:
        values = iter(scripted[resume.step if resume else 0 : stop])
        real = task.summarise

        def summarise(results):
            if (value := next(values, None)) is None:
                raise KeyboardInterrupt
            scores = real(results)
            return dataclasses.replace(scores, headline={**scores.headline, "MAE": value})

        task.summarise = summarise
    records = []
    with contextlib.suppress(KeyboardInterrupt):
        train(task, model, strategy, task.config, folder, device=CPU, log=records.append, resume=resume)
    return records, model


def test_a_validation_says_the_loss_and_what_each_modality_scores_alone(tmp_path):
    """The loss of a value is its absolute error, so their means agree; the heads change nothing, to the bit."""
    (with_heads, model), (without, twin) = (logged(tmp_path, validate_modalities=wanted) for wanted in (None, False))
    validations = [[r for r in records if r["kind"] == "validation"] for records in (with_heads, without)]
    for record, other in zip(*validations, strict=True):
        assert record["loss"] == pytest.approx(record["scores"]["MAE"], rel=1e-6)
        assert set(record["modality_scores"]) == {"text", "audio"}
        assert record["modality_scores"]["text"] != record["modality_scores"]["audio"]
        assert "modality_scores" not in other
        assert (record["scores"], record["loss"]) == (other["scores"], other["loss"])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_the_heads_of_volumes_are_validated_if_asked_and_change_nothing(phantom, cache):
    task, strategy = instantiate(small_config(phantom, cache))
    task.find(str)
    task.prepare(task.default_splits(), str)
    model = build(task, strategy, task.config, CPU)
    plain = validate(task, model, strategy, task.config, CPU)
    assert (plain.loss, plain.modality_scores) == (None, {})
    asked = dataclasses.replace(task.config.train, validate_modalities=True)
    task.settle(train=asked)
    found = validate(task, model, strategy, task.config, CPU)
    assert found.scores == plain.scores
    report = task.summarise(
        evaluate_cases(task, model, strategy, task.splits.validation, task.config, device=CPU, full=True)
    )
    for modality in task.modalities:
        dice = [row["dice"] for row in report.heads if row["modality"] == modality]
        assert found.modality_scores[modality] == pytest.approx(statistics.fmean(dice))


def test_the_loss_of_a_class_is_its_cross_entropy(tmp_path):
    """A network that says nothing has the logarithm of the number of classes."""
    task = found(toy(ToyTask), tmp_path)
    model, strategy = built(task)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
    assert validate(task, model, strategy, task.config, CPU).loss == pytest.approx(math.log(3), rel=1e-6)


def test_a_plateau_lowers_the_rate_of_the_model_and_resumes_alike(tmp_path):
    """Epochs of one step; the best is the first, two pass in patience, and the fourth lowers the rate from then on."""
    optim = OptimConfig(lr=1e-2, warmup_fraction=0, schedule="plateau", patience=2, heads_lr=5e-3)
    settings = {"optim": optim, "epochs": 6, "steps_per_epoch": 1, "checkpoint_every": 1, "scripted": [1.0] * 6}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    records, model = logged(whole, **settings)
    rates = [r["learning_rate"] for r in records if r["kind"] == "train"]
    assert rates == pytest.approx([1e-2] * 4 + [1e-3] * 2)
    groups = checkpoint.load(whole / "last.pt", CPU).optimizer["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx([1e-3] * (len(groups) - 1) + [5e-3])
    logged(killed, stop=3, **settings)
    last = checkpoint.load(killed / "last.pt", CPU)
    assert last.step == 3
    again, twin = logged(killed, resume=last, **settings)
    assert [r["learning_rate"] for r in again if r["kind"] == "train"] == rates[3:]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_plateau_may_go_by_the_loss(tmp_path):
    """The score gets better all the time and the loss does not; torch's own scheduler says when it lowers the rate."""
    rates = {}
    for by in ("score", "loss"):
        optim = OptimConfig(lr=1e-2, warmup_fraction=0, schedule="plateau", patience=0, plateau_by=by)
        records, _ = logged(tmp_path / by, optim, epochs=4, steps_per_epoch=5, scripted=[4.0, 3.0, 2.0, 1.0])
        losses = [r["loss"] for r in records if r["kind"] == "validation"]
        rates[by] = [r["learning_rate"] for r in records if r["kind"] == "train"][-1]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    for loss in losses[:-1]:
        scheduler.step(loss)
    assert scheduler.get_last_lr()[0] < 1e-2
    assert rates == {"score": 1e-2, "loss": pytest.approx(scheduler.get_last_lr()[0])}


def test_a_training_ends_when_validation_no_longer_improves_and_resumes_alike(tmp_path):
    """The best is the second; the third to fifth are not better, equal ones included, and end it. Counted by hand."""
    scores = [3.0, 2.0, 2.5, 2.0, 2.25, 0.0, 0.0, 0.0]
    settings = {"epochs": 8, "steps_per_epoch": 1, "checkpoint_every": 4, "stop_after": 3, "scripted": scores}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    records, model = logged(whole, **settings)
    best = [(r["best"]["score"], r["best"]["step"]) for r in records if r["kind"] == "validation"]
    assert best == [(3.0, 1), *[(2.0, 2)] * 4]
    last = checkpoint.load(whole / "last.pt", CPU)
    assert (last.step, checkpoint.load(whole / "best.pt", CPU).step) == (5, 2)
    logged(killed, stop=4, **settings)  # dies in the fifth validation
    before = checkpoint.load(killed / "last.pt", CPU)
    assert before.step == 4
    again, twin = logged(killed, resume=before, **settings)
    assert [r["step"] for r in again] == [5, 5]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert logged(whole, resume=last, **settings)[0] == []


def test_what_a_plateau_needs_is_missed_before_training(tmp_path):
    plateau = OptimConfig(schedule="plateau")
    task = found(toy(ToyValueTask), tmp_path)
    task.settle(optim=plateau)
    joint, none = Joint(Joint.Config("joint")), dataclasses.replace(task.splits, validation=())
    require_watchable(task, joint, task.splits)
    with pytest.raises(ConfigError, match=r"no case is held out for validation; hold some out \(data.validation\)"):
        require_watchable(task, joint, none)
    task = found(toy(ToyValueTask, stop_after=2), tmp_path)
    with pytest.raises(ConfigError, match=r"train.stop_after is 2, and no case is held out for validation"):
        require_watchable(task, joint, none)
    task = found(toy(ToyValueTask), tmp_path)
    task.settle(optim=dataclasses.replace(plateau, plateau_by="loss"))
    task.says_loss = False
    with pytest.raises(ConfigError, match="does not compute; set optim.plateau_by=score to go by MAE"):
        require_watchable(task, joint, task.splits)


def test_a_checkpoint_from_before_schedules_had_a_state_still_opens(tmp_path):
    logged(tmp_path)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    del content["schedule"]
    torch.save(content, tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt", CPU).schedule == {}


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_watching_the_memory_of_a_step_changes_no_bit(problem):
    weights = []
    for memory in (None, StepMemory(CPU)):
        strategy = CGGM(CGGMConfig("cggm"))
        model = problem.model()
        set_up(strategy, model, problem=problem)
        optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
        for number in range(3):
            with contextlib.nullcontext() if memory is None else memory.watch(number, optimizer, model, strategy):
                one_step(model, strategy, optimizer, problem.batch(number), number, problem)
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    held = sum(p.nbytes for module in (model, strategy) for p in module.parameters())
    assert memory.peak > 4 * held  # weights, gradients, and two moments


def test_the_average_of_the_weights_is_validated_and_kept_and_resumes_alike(tmp_path):
    """Independent authority: torch's own averaged model, with the plain mean first; training itself is unchanged."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    settings = {"epochs": 4, "steps_per_epoch": 1, "checkpoint_every": 1, "scripted": [4.0, 3.0, 2.0, 1.0]}
    plain, averaged, killed = (tmp_path / name for name in ("plain", "averaged", "killed"))
    _, model = logged(plain, **settings)
    _, twin = logged(averaged, ema_decay=0.5, **settings)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    weights = []  # after each of the four steps
    for stop in (1, 2, 3, 4):
        logged(tmp_path / f"{stop}", **settings | {"epochs": 4}, stop=stop)
        weights.append(checkpoint.load(tmp_path / f"{stop}" / "last.pt", CPU).model)
    name, _ = next(iter(model.named_parameters()))
    w = [x[name] for x in weights]
    layer = torch.nn.ParameterList([w[0]])
    reference = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for value in w:
        layer[0].data.copy_(value)
        reference.update_parameters(layer)
    last, best = (checkpoint.load(averaged / f"{of}.pt", CPU) for of in ("last", "best"))
    torch.testing.assert_close(last.model[name], reference.module[0].data)
    assert torch.equal(best.model[name], last.model[name])
    assert not torch.equal(last.model[name], w[3])
    logged(killed, ema_decay=0.5, stop=3, **settings)
    before = checkpoint.load(killed / "last.pt", CPU)
    _, again = logged(killed, ema_decay=0.5, resume=before, **settings)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), twin.parameters(), strict=True))
    resumed = checkpoint.load(killed / "last.pt", CPU)
    for part in ("model", "strategy", "unaveraged"):
        a, b = getattr(resumed, part), getattr(last, part)
        assert all(torch.equal(a[key], b[key]) for key in b if torch.is_tensor(b[key])), part
    assert last.unaveraged
    assert checkpoint.load(plain / "last.pt", CPU).unaveraged == {}
