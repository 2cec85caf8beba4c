"""Laws that every registered strategy keeps, third-party ones included."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from helpers.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    PROBLEMS,
    SEGMENTATION,
    make,
    one_step,
    same_bits,
    set_up,
    small_batch,
    small_model,
    trained,
    vector_batch,
    vector_model,
)

from cggm_med import registry
from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.strategies.base import BalancingStrategy, FactorStrategy
from cggm_med.training.monitor import Monitor, coverage
from cggm_med.types import Batch

NAMES = registry.names(registry.STRATEGIES)
every_strategy = pytest.mark.parametrize("name", NAMES)
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
# Built-in strategies whose rule depends on the step are tried where it is at work.
AT_WORK = {"cggm": {"warmup_steps": 0}, "opm": {"warmup": 0.0, "probability": 1.0}, "dgs": {"every": 1}}
# Settings under which a strategy must train the same bits as joint; the others are never joint.
NEUTRAL = {
    "joint": {},
    "uniform": {"unimodal_weight": 0.0},
    "cggm": {"unimodal_weight": 0.0, "strength": 0.0, "warmup_steps": 0},
    "ogm": {"alpha": 0.0},
    "opm": {"drop_base": 0.0, "warmup": 0.0, "probability": 1.0},
    "agm": {"alpha": 0.0},
    "modality_dropout": {},
    "subset_view": {},
}
DRAW_BY_ORDER = {"ogm_ge", "opm"}  # their random numbers follow the order of modalities or parameters
MAY_DIFFER = {"ogm_ge", "mmpareto", "dgs"}  # noise, and another way to combine gradients


def factor_strategies():
    return [name for name in NAMES if issubclass(registry.load(registry.STRATEGIES, name), FactorStrategy)]


def at_work(name):
    return make(name, **AT_WORK.get(name, {}))


def finite(module) -> bool:
    return all(torch.isfinite(x).all() for x in module.state_dict().values())


@every_strategy
@every_problem
def test_training_stays_finite(name, problem):
    strategy = at_work(name)
    model = trained(strategy, steps=4, problem=problem)
    assert finite(model)
    assert finite(strategy)


@every_strategy
@every_problem
def test_training_learns(name, problem):
    strategy, model = at_work(name), problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, OptimConfig(lr=1e-2), CPU)
    losses = [one_step(model, strategy, optimizer, problem.batch(), i, problem)["task"].item() for i in range(25)]
    assert losses[-1] < 0.9 * losses[0]


@every_strategy
@every_problem
def test_one_modality_trains_as_if_there_were_nothing_to_balance(name, problem):
    strategy = at_work(name)
    model = trained(strategy, steps=3, model=problem.model(("t1",)), problem=problem)
    assert finite(model)
    assert strategy.diagnostics().get("factor", torch.ones(1)).tolist() == [1]
    if name in NEUTRAL:
        # Exactly the joint step, since with one modality nothing is left to compare.
        settings = {**AT_WORK.get(name, {}), **({"unimodal_weight": 0.0} if name in ("cggm", "uniform") else {})}
        alone = trained(make(name, **settings), steps=3, model=problem.model(("t1",)), problem=problem)
        assert same_bits(alone, trained(make("joint"), steps=3, model=problem.model(("t1",)), problem=problem))


@every_strategy
def test_a_batch_without_target_changes_no_factor(name):
    strategy = at_work(name)
    empty = [Batch(b.inputs, torch.zeros_like(b.target), b.ids) for b in (small_batch(0), small_batch(1))]
    model = trained(strategy, steps=2, batches=empty)
    assert finite(model)
    assert strategy.diagnostics().get("factor", torch.ones(3)).tolist() == [1, 1, 1]


@every_strategy
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_change_no_state(name, bad):
    strategy, model = at_work(name), small_model()
    trained(strategy, steps=3, model=model)
    before = copy.deepcopy(strategy.state_dict())
    real = strategy.score_sums
    strategy.score_sums = lambda *x: real(*x) * bad
    batch = small_batch(3)
    features = model.encode(batch.inputs)
    outputs = model.predict([features])[0]
    outputs.unimodal.update(strategy.unimodal(features))
    strategy.watch(model, outputs, batch.target, Step(3, 100))
    after = strategy.state_dict()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []


@every_strategy
@pytest.mark.parametrize(
    "score", [(0, 0, 0), (1, 1, 1), (0.3, 0.3, 0.3), (1, 0, 0), (0, 0, 1), (1e-8, 1e-8, 1), (0.5, 0.5 + 1e-7, 0.5)]
)
def test_any_scores_give_finite_bounded_factors(name, score):
    strategy = set_up(at_work(name), small_model())
    for number in range(5):
        strategy.observe(slice(None), torch.tensor(score, dtype=torch.float32), torch.tensor(True), Step(number, 100))
        factor = strategy.diagnostics().get("factor", torch.ones(3))
        assert torch.isfinite(factor).all()
        assert (factor >= 0).all()
        assert (factor <= 12).all()


@pytest.mark.parametrize("name", factor_strategies())
@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_ties_are_symmetric(name, value):
    strategy = set_up(at_work(name), small_model())
    for number in range(5):
        strategy.observe(slice(None), torch.full((3,), value), torch.tensor(True), Step(number, 100))
    torch.testing.assert_close(strategy.factor, torch.ones(3))


@pytest.mark.parametrize("name", factor_strategies())
def test_permuting_modalities_permutes_factors(name):
    random = torch.Generator().manual_seed(4)
    scores = torch.rand(12, 3, generator=random) * 0.5 + torch.linspace(0, 0.4, 12)[:, None] * torch.tensor([1, 0.5, 0])
    order = [2, 0, 1]
    straight, permuted = (set_up(at_work(name), small_model()) for _ in range(2))
    for number, score in enumerate(scores):
        straight.observe(slice(None), score, torch.tensor(True), Step(number, 100))
        permuted.observe(slice(None), score[order], torch.tensor(True), Step(number, 100))
    torch.testing.assert_close(permuted.factor, straight.factor[order], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DRAW_BY_ORDER])
@every_problem
def test_permuting_modalities_changes_nothing_but_names(name, problem):
    """Scores, whatever they come from, follow their modality."""
    order = MODALITIES[::-1]
    strategy, other = at_work(name), at_work(name)
    model, turned = problem.model(), problem.model(order)
    state = model.state_dict()
    if problem is not SEGMENTATION:
        state["head.weight"] = torch.cat(state["head.weight"].split(5, dim=1)[::-1], dim=1)
    turned.load_state_dict(state)
    batch = problem.batch(0, MODALITIES)
    set_up(strategy, model, problem=problem)
    set_up(other, turned, problem=problem)
    if strategy.heads is not None:
        other.heads.load_state_dict(strategy.heads.state_dict())
    for number in range(2):
        for s, m in ((strategy, model), (other, turned)):
            one_step(m, s, make_optimizer(m, s, OptimConfig(name="sgd"), CPU), batch, number, problem)
    scores, turned_scores = strategy.diagnostics()["score"], other.diagnostics()["score"]
    torch.testing.assert_close(turned_scores.flip(0), scores, rtol=1e-4, atol=1e-5)


@every_strategy
@every_problem
def test_a_batch_that_lacks_a_modality_leaves_its_encoder_and_factor_alone(name, problem):
    strategy, model = at_work(name), problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", momentum=0, weight_decay=0), CPU)
    for number in range(3):
        one_step(model, strategy, optimizer, problem.batch(number), number, problem)
    before = copy.deepcopy(model), strategy.diagnostics()
    batch = problem.batch(3)
    lacking = Batch({m: batch.inputs[m] for m in ("flair", "t1ce")}, batch.target, batch.ids)
    one_step(model, strategy, optimizer, lacking, 3, problem)
    assert same_bits(model.encoders["t1"], before[0].encoders["t1"])
    assert not all(same_bits(model.encoders[m], before[0].encoders[m]) for m in ("flair", "t1ce"))
    for key, value in strategy.diagnostics().items():
        if key in ("score", "factor"):
            assert value[1] == before[1][key][1]
            assert torch.isfinite(value).all()


@every_strategy
@every_problem
def test_state_resumes_exactly(name, problem):
    """Five steps at once equal two, a reload into new objects, and three more."""
    strategy, model = at_work(name), problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    second, other = set_up(at_work(name), problem.model(seed=9), problem=problem), problem.model(seed=9)
    resumed = make_optimizer(other, second, OptimConfig(), CPU)
    for number in range(5):
        if number == 2:
            other.load_state_dict(copy.deepcopy(model.state_dict()))
            second.load_state_dict(copy.deepcopy(strategy.state_dict()))
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        one_step(model, strategy, optimizer, problem.batch(number), number, problem)
        if number >= 2:
            one_step(other, second, resumed, problem.batch(number), number, problem)
    assert same_bits(other, model)
    assert same_bits(second, strategy)


@every_strategy
@every_problem
@pytest.mark.parametrize(
    "options",
    [TrainConfig(), TrainConfig(modality_dropout=0.4, subset_view=0.5, subset_view_guided=True)],
    ids=["plain", "with subsets"],
)
def test_a_batch_in_parts_gives_the_update_of_the_whole_batch(name, problem, options):
    """In SGD, where an update is the gradient; Adam would turn differences of rounding into differences of sign."""
    models, strategies = [], []
    for parts in (1, 2, 4):
        strategy, model = at_work(name), problem.model()
        set_up(strategy, model, problem=problem)
        optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd"), CPU)
        for number in range(3):
            batch = problem.batch(number, samples=4)
            losses = one_step(
                model,
                strategy,
                optimizer,
                batch,
                number,
                problem,
                settings=replace(options, accumulate=parts),
                clip_norm=10,
            )
        models.append(model)
        strategies.append((strategy, losses))
    start = problem.model()
    for model, (strategy, losses) in zip(models[1:], strategies[1:], strict=True):
        for (key, expected), value in zip(models[0].state_dict().items(), model.state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5, msg=f"{name} {key}")
        for key, value in strategy.state_dict().items():
            # One ReLU that rounding switches is seen in the cosine of a small encoder's gradients.
            near = 1e-2 if key == "pareto.cosine" else 1e-4
            torch.testing.assert_close(value, strategies[0][0].state_dict()[key], rtol=1e-3, atol=near, msg=key)
        for key, value in losses.items():
            torch.testing.assert_close(value, strategies[0][1][key], rtol=1e-4, atol=1e-5, msg=key)
    assert not same_bits(models[0], start)


@every_strategy
@every_problem
def test_bfloat16_autocast_stays_finite(name, problem):
    strategy, model = at_work(name), problem.model()
    set_up(strategy, model, problem=problem)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    options = TrainConfig(modality_dropout=0.2, subset_view=0.5)
    for number in range(2):
        batch = problem.batch(number)
        losses = one_step(model, strategy, optimizer, batch, number, problem, autocast=autocast, settings=options)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert finite(model)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@every_strategy
def test_it_modulates_every_encoder_if_it_says_so(name):
    """Against the same strategy with its modulation switched off: at least one gradient or learning rate differs."""
    cls = registry.load(registry.STRATEGIES, name)
    seen = {}
    for on in (True, False):
        strategy, model = at_work(name), vector_model()
        set_up(strategy, model, problem=CLASSIFICATION)
        if hasattr(strategy, "factor"):
            strategy.set_factors(slice(None), torch.tensor([0.6, 0.7, 0.8]), torch.tensor(True))
            strategy.set_factors = lambda *_: None
        if not on:
            strategy.modulate = lambda *_: None
            strategy.combine = partial(BalancingStrategy.combine, strategy)
            strategy.backward = partial(BalancingStrategy.backward, strategy)
        optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd", momentum=0, weight_decay=0), CPU)
        one_step(model, strategy, optimizer, vector_batch(), 0, CLASSIFICATION)
        seen[on] = model
    changed = {
        m: any(
            not torch.equal(a, b)
            for a, b in zip(seen[True].modality_parameters(m), seen[False].modality_parameters(m), strict=True)
        )
        for m in MODALITIES
    }
    assert list(changed.values()) == [cls.modulates] * 3


@every_strategy
def test_an_encoder_without_parameters_is_an_error(name):
    model = small_model()
    for parameter in model.modality_parameters("t1"):
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="'t1' matches no trainable parameter"):
        set_up(make(name), model)


@every_strategy
@every_problem
def test_without_its_rule_it_trains_the_bits_of_joint(name, problem):
    if name not in NEUTRAL:
        assert name in MAY_DIFFER or not registry.load(registry.STRATEGIES, name).__module__.startswith("cggm_med.")
        return
    expected = trained(make("joint", heads=False), problem=problem)
    assert same_bits(trained(make(name, **NEUTRAL[name]), problem=problem), expected)


@pytest.mark.parametrize("name", factor_strategies())
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_factors_of_one_leave_no_trace(name, optimizer):
    models = []
    for modulate in (True, False):
        strategy = at_work(name)
        if name == "ogm_ge":
            strategy.active = lambda step: False
        strategy.set_factors = lambda *_: None
        if not modulate:
            strategy.modulate = lambda *_: None
        models.append(trained(strategy, optim=OptimConfig(name=optimizer)))
    assert same_bits(*models)


@every_strategy
def test_diagnostics_are_one_value_a_modality_or_scalars(name):
    strategy = at_work(name)
    trained(strategy, steps=1)
    values = strategy.diagnostics()
    assert all(value.shape in ((), (len(MODALITIES),)) for value in values.values())
    assert (values["score"] > 0).all()


@every_strategy
def test_the_model_predicts_without_the_strategy(name):
    model = trained(at_work(name), steps=1).eval()
    assert model(small_batch().inputs).shape == (2, 2, 8, 8, 8)
    assert set(model.state_dict()) == set(small_model().state_dict())


@every_strategy
def test_coverage_names_every_parameter_once(name):
    model = small_model()
    found = coverage(model, set_up(make(name), model))
    names = [*found["shared"], *(x for names in found["modalities"].values() for x in names)]
    assert sorted(names) == sorted(dict(model.named_parameters()))


@every_strategy
def test_a_gradient_that_is_not_finite_skips_the_step(name):
    strategy, model = at_work(name), small_model()
    set_up(strategy, model)
    optimizer, monitor = make_optimizer(model, strategy, OptimConfig(), CPU), Monitor(3)
    one_step(model, strategy, optimizer, small_batch(), 0, monitor=monitor)
    before = copy.deepcopy(model)
    handle = model.head.conv.conv.weight.register_hook(lambda g: g * float("inf"))
    one_step(model, strategy, optimizer, small_batch(), 1, monitor=monitor)
    assert same_bits(model, before)
    assert monitor.skipped_steps == 1
    handle.remove()
    one_step(model, strategy, optimizer, small_batch(), 2, monitor=monitor)
    assert finite(model)
    assert not same_bits(model, before)


@every_strategy
def test_learning_rates_are_left_as_they_were(name):
    strategy, model = at_work(name), small_model()
    set_up(strategy, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    for number in range(3):
        one_step(model, strategy, optimizer, small_batch(number), number)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3] * len(optimizer.param_groups)


@every_strategy
def test_it_says_what_it_is(name):
    cls = registry.load(registry.STRATEGIES, name)
    assert cls.description
    assert cls.__doc__
