"""InfoReg: growth and coefficients by hand, and what is held back, and when."""

import copy
import math

import pytest
import torch

from cggm_med import ConfigError
from cggm_med.config import OptimConfig
from cggm_med.objectives.balance_scores import true_class_sums
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.strategies.inforeg import InfoRegConfig, information_growth, regulation
from cggm_med.testing.problems import CLASSIFICATION, CPU, SEGMENTATION, make, one_step, set_up

SGD = OptimConfig(name="sgd", lr=0.05, momentum=0, weight_decay=0)


# Formulas


@pytest.mark.parametrize(
    ("score", "growth", "expected"),
    [
        ([0.7, 0.2], [0.3, 0.3], [0.95 * math.exp(math.tanh(0.5)), 0]),
        ([0.2, 0.7], [0.3, 0.3], [0, 0.95 * math.exp(math.tanh(0.5))]),
        ([0.7, 0.2], [0.05, 0.3], [0, 0]),  # its window is over; that of the other does not count
        ([0.9, 0.6, 0.0], [1, 1, 1], [0.95 * math.exp(math.tanh(0.6)), 0.95 * math.exp(math.tanh(0.15)), 0]),
        ([0.4, 0.4, 0.4], [1, 1, 1], [0, 0, 0]),
        ([0.9], [1], [0]),
    ],
)
def test_coefficients_by_hand(score, growth, expected):
    """The lead of 0.9 over the mean of 0.6 and 0 is 0.6, that of 0.6 over 0.9 and 0 is 0.15."""
    found = regulation(torch.tensor(score), torch.tensor(growth, dtype=torch.float), 0.95, 0.05)
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def released_growth(history):
    """GeWu-Lab/InfoReg_CVPR2025 at 939b2ed, main.py: the list begins with ten zeros; 1 in the first epoch."""
    if len(history) == 10:
        return 1.0
    now, before = sum(history[-10:]) / 10, sum(history[-11:-1]) / 10
    return (now - before) / now


def test_growth_is_that_of_the_release():
    history = [0.0] * 10
    for trace in torch.rand(30, generator=torch.Generator().manual_seed(0)).tolist():
        traces = torch.tensor(([0.0] * 11 + history)[-11:])[:, None]
        assert information_growth(traces).item() == pytest.approx(released_growth(history), rel=1e-4, abs=1e-5)
        history.append(trace)


def test_traces_that_stay_the_same_grow_as_one_over_the_epochs_and_stop_after_ten():
    growths = [information_growth(torch.tensor([0.0] * (11 - n) + [2.0] * n)[:, None]).item() for n in range(12)]
    assert growths == pytest.approx([1, *(1 / n for n in range(1, 11)), 0], abs=1e-6)


# The strategy in a step


def test_without_a_lead_the_step_is_that_of_uniform():
    """The first step of an epoch too: nothing has moved yet."""
    models = []
    for name, settings in (("inforeg", {"unimodal_weight": 0.4}), ("uniform", {"unimodal_weight": 0.4})):
        models.append(SEGMENTATION.model())
        strategy = set_up(make(name, **settings), models[-1])
        one_step(models[-1], strategy, make_optimizer(models[-1], strategy, SGD, CPU), SEGMENTATION.batch(), 0)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(a, b)


def test_the_leader_stays_nearer_to_where_the_epoch_began():
    """In segmentation, where heads give the scores; 5 steps of one epoch."""
    distances = {}
    for beta in (0.0, 8.0):
        model = SEGMENTATION.model()
        strategy = set_up(make("inforeg", beta=beta), model)
        start = copy.deepcopy(model)
        optimizer = make_optimizer(model, strategy, SGD, CPU)
        for number in range(5):
            one_step(model, strategy, optimizer, SEGMENTATION.batch(0), number, clip_norm=1e9)
        leader = int(strategy.score.argmax())
        name = model.modalities[leader]
        pairs = zip(model.modality_parameters(name), start.modality_parameters(name), strict=True)
        distances[beta] = name, torch.cat([(a - b).flatten() for a, b in pairs]).norm().item()
        assert bool(strategy.regulation[leader] > 0) == (beta > 0)
    assert distances[0.0][0] == distances[8.0][0]
    assert distances[8.0][1] < 0.9 * distances[0.0][1]


def test_the_trace_is_the_mean_squared_gradient_of_the_losses_without_the_pull():
    model = CLASSIFICATION.model()
    strategy = set_up(make("inforeg"), model, 2, CLASSIFICATION)
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", lr=1e-30), CPU)
    squares = []
    for number in range(2):
        one_step(model, strategy, optimizer, CLASSIFICATION.batch(number), number, CLASSIFICATION, clip_norm=1e9)
        squares.append([sum(g.square().sum() for g in model.modality_gradients(m)) for m in model.modalities])
    strategy.start_epoch(model, 1, lambda split: {})
    torch.testing.assert_close(strategy.traces[-1], torch.tensor(squares).mean(0))
    assert strategy.traces[:-1].sum() == 0
    assert strategy.trace.sum() == strategy.steps.sum() == 0


def test_scores_are_shares_of_a_linear_head_as_in_the_release():
    model = CLASSIFICATION.model()
    strategy = set_up(make("inforeg"), model, problem=CLASSIFICATION)
    batch = CLASSIFICATION.batch()
    shares = model.linear_shares(model.encode(batch.inputs))
    expected = [(lambda s: s[0, 0] / s[0, 1])(true_class_sums(shares[m], batch.target)) for m in model.modalities]
    one_step(model, strategy, make_optimizer(model, strategy, SGD, CPU), batch, 0, CLASSIFICATION)
    torch.testing.assert_close(strategy.score, torch.stack(expected))


@pytest.mark.parametrize(("setting", "value"), [("beta", -1.0), ("threshold", 1.0), ("unimodal_weight", -0.1)])
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(ConfigError, match=rf"strategy\.{setting}"):
        InfoRegConfig("inforeg", **{setting: value})
