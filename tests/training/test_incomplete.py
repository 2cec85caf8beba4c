"""Samples that lack modalities train what they have: against the samples one by one, and against never loaded."""

import copy

import pytest
import torch
from torch import nn

from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.errors import UnknownName
from cggm_med.models.sequence import SequenceModelConfig, sequence_heads, sequence_model
from cggm_med.objectives.balance_scores import mean_score
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.strategies.base import fused_loss
from cggm_med.testing.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    PROBLEMS,
    SEGMENTATION,
    lacking,
    make,
    one_step,
    set_up,
    small_model,
)
from cggm_med.training.monitor import ModalityComparison, Monitor, readable
from cggm_med.types import Padded

ABSENT = {"t1": [0, 2], "flair": [1]}
each_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def stepped(problem, batch, name="uniform", **options):
    """The losses of one step, the model after it and the one before, and the strategy."""
    strategy, model = make(name), problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=1e-9, momentum=0, weight_decay=0), CPU)
    before = copy.deepcopy(model), copy.deepcopy(strategy)
    losses = one_step(model, strategy, optimizer, batch, 0, problem, clip_norm=1e9, **options)
    return losses, model, strategy, before


def alone(batch, row):
    """What a sample has, as a batch of one."""
    return {m: x[row : row + 1] for m, x in batch.inputs.items() if batch.present[m][row]}


# Encoding


@pytest.mark.parametrize("training", [True, False])
def test_an_absent_modality_is_as_if_it_had_never_been_loaded(training):
    """Bit for bit, in a batch of which the other samples have it and keep their numbers."""
    model = small_model(deep_supervision=True).train(training)
    whole = SEGMENTATION.batch(0, samples=3)
    for junk in (0.0, 1e9, float("nan")):
        batch = lacking(whole, {"t1": [1]}, junk)
        found = model.predict([model.encode(batch.inputs, batch.present)])[0]
        everything = model.predict([model.encode(whole.inputs)])[0]
        without = model.predict([model.encode({m: whole.inputs[m] for m in ("flair", "t1ce")})])[0]
        for row, expected in ((0, everything), (1, without), (2, everything)):
            assert torch.equal(found.logits[row], expected.logits[row])
            for deep, same in zip(found.deep_logits, expected.deep_logits, strict=True):
                assert torch.equal(deep[row], same[row])


def test_a_modality_that_no_sample_has_is_not_encoded():
    model, batch = small_model(), lacking(SEGMENTATION.batch(), {"t1": [0, 1]})
    model.encoders["t1"] = nn.Identity()  # would not fit
    features = model.encode(batch.inputs, batch.present)
    assert list(features) == ["flair", "t1ce"]
    assert all(f.present is None and f.rows is None for f in features.values())


def test_features_say_who_has_what():
    model, batch = small_model(), lacking(SEGMENTATION.batch(samples=4), ABSENT)
    features = model.encode(batch.inputs, batch.present)
    assert features["t1"].present.tolist() == [False, True, False, True]
    assert features["t1"].rows.tolist() == [1, 3]
    assert features["flair"].rows.tolist() == [0, 2, 3]
    assert features["t1ce"].present is None


def test_sequences_too():
    torch.manual_seed(0)
    config = SequenceModelConfig((3, 2), width=4, attention_heads=2, encoder_layers=1, fusion_layers=1, head_layers=1)
    model = sequence_model(config, ("text", "audio"), 2).eval()
    heads = sequence_heads(model, 2, config).eval()
    valid = torch.tensor([[True, True, False], [True, True, True]])
    inputs = {m: Padded(torch.randn(2, 3, c), valid) for m, c in (("text", 3), ("audio", 2))}
    features = model.encode(inputs, {"text": torch.tensor([True, True]), "audio": torch.tensor([False, True])})
    logits = model.head(model.fuse(features)[0])
    without = model({"text": inputs["text"]})
    torch.testing.assert_close(logits[0], without[0])
    torch.testing.assert_close(logits[1], model(inputs)[1])
    assert heads(features)["audio"].logits.shape == (1, 2)
    torch.testing.assert_close(heads(features)["audio"].logits[0], heads(model.encode(inputs))["audio"].logits[1])


def test_a_modality_without_an_encoder_is_still_an_error():
    with pytest.raises(UnknownName, match="no modality in this model 'ct'"):
        small_model().encode({"ct": torch.zeros(1, 1, 8, 8, 8)}, {"ct": torch.tensor([True])})


# A training step


@each_problem
def test_losses_and_gradients_are_those_of_the_samples_one_by_one(problem):
    """The fused loss is the mean over samples, each with what it has; a head's the mean over those that have it."""
    batch = lacking(problem.batch(0, samples=4), ABSENT)
    losses, trained, _, (model, strategy) = stepped(problem, batch)
    fused, own = [], {m: [] for m in MODALITIES}
    for row in range(4):
        features, target = model.encode(alone(batch, row)), batch.target[row : row + 1]
        fused.append(fused_loss(model.predict([features])[0], target, problem.criterion))
        for m, output in strategy.unimodal(features).items():
            own[m].append(problem.criterion(output.logits, target))
    assert [len(values) for values in own.values()] == [3, 2, 4]
    expected = {"task": torch.stack(fused).mean(), **{m: torch.stack(values).mean() for m, values in own.items()}}
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.detach(), rtol=1e-5, atol=1e-6)
    torch.stack(list(expected.values())).sum().backward()
    for (name, mine), found in zip(model.named_parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(found.grad, mine.grad, rtol=1e-3, atol=1e-6, msg=name)


@each_problem
def test_a_sample_that_lacks_a_modality_adds_exactly_nothing_to_its_encoder(problem):
    """Whatever the sample shows otherwise, and whatever is true of it."""
    batch = lacking(problem.batch(0, samples=4), {"t1": [3]})
    other = lacking(problem.batch(1, samples=4), {"t1": [3]})
    mixed = copy.deepcopy(batch)
    for m in MODALITIES:
        mixed.inputs[m][3] = other.inputs[m][3]
    mixed.target[3] = other.target[3]
    gradients = [stepped(problem, x, "joint")[1].modality_gradients("t1") for x in (batch, mixed)]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert any(bool(g.any()) for g in gradients[0])


@pytest.mark.parametrize("name", ["joint", "uniform", "cggm", "mmpareto", "ogm_ge"])
def test_no_optimizer_moves_an_encoder_whose_modality_nobody_has(name):
    """Not even by weight decay or momentum of earlier steps."""
    problem = SEGMENTATION
    strategy, model = make(name), problem.model()
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(weight_decay=0.5), CPU)
    one_step(model, strategy, optimizer, problem.batch(0), 0)
    before = copy.deepcopy(model.modality_modules("t1"))
    one_step(model, strategy, optimizer, lacking(problem.batch(1), {"t1": [0, 1]}), 1)
    assert all(
        torch.equal(a, b)
        for x, y in zip(before, model.modality_modules("t1"), strict=True)
        for a, b in zip(x.parameters(), y.parameters(), strict=True)
    )


def test_scores_that_cannot_be_compared_change_no_state():
    """Nothing of the target lies in the one sample that has T1: its score is not 0, it is unknown."""
    batch = lacking(SEGMENTATION.batch(0), {"t1": [1]})
    batch.target[0] = 0
    _, _, strategy, (_, before) = stepped(SEGMENTATION, batch, "cggm")
    assert all(torch.equal(a, b) for a, b in zip(strategy.buffers(), before.buffers(), strict=True))
    sums = torch.tensor([[[1.0, 2.0, 1.0]], [[0.0, 2.0, 0.0]]])
    assert not mean_score(sums)[1]
    assert mean_score(sums[:1])[1]


# What is logged


def compared(batch, name="joint", problem=CLASSIFICATION, accumulate=1):
    comparison, monitor = ModalityComparison(shapley=True), Monitor(3)
    settings = TrainConfig(accumulate=accumulate)
    *_, (model, strategy) = stepped(problem, batch, name, comparison=comparison, monitor=monitor, settings=settings)
    return {**monitor.values(), **comparison.values()}, model, strategy


def test_of_a_modality_that_nobody_has_nothing_is_logged():
    values, *_ = compared(lacking(CLASSIFICATION.batch(0), {"t1": range(4)}))
    for key in ("gradient_norm", "cosine", "shapley_share"):
        found = readable(values, MODALITIES)[key]
        assert found["t1"] is None
        assert None not in (found["flair"], found["t1ce"])


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_cosines_and_shares_of_incomplete_samples_by_hand(accumulate):
    batch = lacking(CLASSIFICATION.batch(0), ABSENT)
    values, model, strategy = compared(batch, accumulate=accumulate)
    features = model.encode(batch.inputs, batch.present)
    output = model.predict([features])[0]
    (fused,) = torch.autograd.grad(CLASSIFICATION.criterion(output.logits, batch.target), model.head.weight)
    for i, m in enumerate(MODALITIES):
        has = batch.present[m]
        own = strategy.heads(model.encode({m: batch.inputs[m][has]}))[m]
        loss = CLASSIFICATION.criterion(own.logits, batch.target[has])
        (gradient,) = torch.autograd.grad(loss, strategy.heads.heads[m].last.weight)
        expected = torch.cosine_similarity(fused[:, 5 * i : 5 * i + 5].flatten(), gradient.flatten(), dim=0)
        torch.testing.assert_close(values["cosine"][i], expected, rtol=1e-4, atol=1e-5)
    assert values["shapley_share"].abs().sum().item() == pytest.approx(1)
    whole, *_ = compared(batch)
    torch.testing.assert_close(values["shapley_share"], whole["shapley_share"], rtol=1e-4, atol=1e-5)


# Numbers of samples


def test_a_mean_over_some_becomes_the_mean_over_all_that_have_it():
    """Parts of one and of two samples: (1 x 6 + 2 x 3) / 3 = 4, once both are averaged over two parts."""
    step = Step(0, 1, parts=2, counts={"t1": 3})
    shares = [step.weigh("t1", torch.tensor(mean), n) for mean, n in ((6.0, 1), (3.0, 2))]
    assert sum(share.item() for share in shares) / 2 == pytest.approx(4)
    assert Step(0, 1, parts=2).weigh("t1", torch.tensor(6.0), 1).item() == 6
