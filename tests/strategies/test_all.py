"""Laws that every registered strategy keeps, third-party ones included."""

import copy

import pytest
import torch
from problems import CPU, MODALITIES, same_bits, set_up, small_batch, small_model, trained

from cggm_med import registry
from cggm_med.config import OptimConfig
from cggm_med.engine import make_optimizer, train_step
from cggm_med.losses import RegionLoss
from cggm_med.typing import Batch

every_strategy = pytest.mark.parametrize("name", registry.names(registry.STRATEGIES))


def make(name):
    cls = registry.load(registry.STRATEGIES, name)
    return cls(cls.Config(name))


@every_strategy
def test_training_stays_finite(name):
    model = trained(make(name), steps=3)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@every_strategy
def test_one_modality_trains(name):
    model = trained(make(name), steps=3, model=small_model(("t1",)))
    assert all(torch.isfinite(p).all() for p in model.parameters())


@every_strategy
def test_a_batch_without_target_trains(name):
    empty = [Batch(b.inputs, torch.zeros_like(b.target), b.ids) for b in (small_batch(0), small_batch(1))]
    model = trained(make(name), steps=2, batches=empty)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@every_strategy
def test_a_batch_that_lacks_a_modality_leaves_its_encoder_alone(name):
    batch = small_batch()
    partial = Batch({m: batch.inputs[m] for m in ("flair", "t1ce")}, batch.target, batch.ids)
    model = small_model()
    before = copy.deepcopy(model)
    trained(make(name), steps=1, model=model, batches=[partial])
    assert same_bits(model.encoders["t1"], before.encoders["t1"])
    assert not same_bits(model.encoders["flair"], before.encoders["flair"])


@every_strategy
def test_state_resumes_exactly(name):
    """Five steps at once equal two, a reload into new objects, and three more."""
    config = OptimConfig()
    strategy, model = make(name), small_model()
    expected = trained(strategy, steps=5, model=model)

    first, model = make(name), small_model()
    trained(first, steps=2, model=model)
    second, other = set_up(make(name), small_model(seed=9)), small_model(seed=9)
    optimizer = make_optimizer(other, second, config, CPU)

    # The optimizer of `trained` is out of reach, so both halves are walked here with their own.
    first, model = make(name), small_model()
    set_up(first, model)
    optimizer_1 = make_optimizer(model, first, config, CPU)
    for step in range(2):
        train_step(model, first, optimizer_1, RegionLoss(), small_batch(step), clip_norm=1.0)
    other.load_state_dict(model.state_dict())
    second.load_state_dict(first.state_dict())
    optimizer.load_state_dict(optimizer_1.state_dict())
    for step in range(2, 5):
        train_step(other, second, optimizer, RegionLoss(), small_batch(step), clip_norm=1.0)
    assert same_bits(other, expected)
    assert same_bits(second, strategy)


@every_strategy
def test_bfloat16_autocast_stays_finite(name):
    strategy, model = make(name), small_model()
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    losses = train_step(model, strategy, optimizer, RegionLoss(), small_batch(), clip_norm=1.0, autocast=autocast)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    assert all(torch.isfinite(p).all() for p in model.parameters())


@every_strategy
def test_diagnostics_are_one_value_a_modality_or_scalars(name):
    strategy = make(name)
    trained(strategy, steps=1)
    assert all(value.shape in ((), (len(MODALITIES),)) for value in strategy.diagnostics().values())


@every_strategy
def test_it_says_what_it_is(name):
    assert registry.load(registry.STRATEGIES, name).description
