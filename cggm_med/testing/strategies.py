"""Laws that every balancing strategy keeps, whatever its rule."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from cggm_med import registry
from cggm_med.config import OptimConfig, TrainConfig
from cggm_med.errors import ConfigError
from cggm_med.models.base import MultimodalModel
from cggm_med.models.heads import UnimodalHeads, VectorHead
from cggm_med.objectives.balance_scores import mean_score
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step
from cggm_med.strategies.base import BalancingStrategy, FactorStrategy
from cggm_med.testing.laws import Laws, check, expect
from cggm_med.testing.problems import (
    CLASSIFICATION,
    CPU,
    MODALITIES,
    PROBLEMS,
    SEGMENTATION,
    Problem,
    finite_state,
    lacking,
    make,
    one_step,
    same_bits,
    set_up,
    trained,
)
from cggm_med.training.monitor import Monitor, coverage
from cggm_med.types import Batch, Features, UnimodalOutput

MAX_FACTOR = 12.0
SGD = OptimConfig(name="sgd", momentum=0, weight_decay=0)
WITH_SUBSETS = TrainConfig(modality_dropout=0.4, subset_view=0.5, subset_view_guided=True)


def check_strategy(
    strategy: str | type[BalancingStrategy],
    *,
    settings: Mapping[str, Any] | None = None,
    neutral: Mapping[str, Any] | None = None,
    draws_by_order: bool = False,
    problems: Sequence[str] = tuple(PROBLEMS),
) -> None:
    """Try a strategy on small problems and require what every strategy promises; takes some seconds.

    Args:
        strategy: registered name, or the class.
        settings: those under which its rule is at work from the first step, such as ``{"warmup_steps": 0}``.
        neutral: settings that switch its rule off, under which it must train the same bits as ``joint``; None if there
            are none.
        draws_by_order: whether its random numbers follow the order of modalities or parameters, or are added to the
            gradients; then nothing is expected of another order, nor of factors of one.
        problems: which of ``segmentation``, ``classification`` and ``regression``.

    Raises:
        AssertionError: says which law is broken, and how.

    Example:
        >>> check_strategy("uniform", neutral={"unimodal_weight": 0.0}, problems=["classification"])
    """
    laws = strategy_laws(strategy, settings=settings, neutral=neutral, draws_by_order=draws_by_order, problems=problems)
    check(laws, f"strategy {strategy if isinstance(strategy, str) else strategy.__name__}")


def strategy_laws(
    strategy: str | type[BalancingStrategy],
    *,
    settings: Mapping[str, Any] | None = None,
    neutral: Mapping[str, Any] | None = None,
    draws_by_order: bool = False,
    problems: Sequence[str] = tuple(PROBLEMS),
) -> Laws:
    """What ``check_strategy`` requires, to be run one by one, such as by ``pytest.mark.parametrize``."""
    cls = registry.load(registry.STRATEGIES, strategy) if isinstance(strategy, str) else strategy
    name = strategy if isinstance(strategy, str) else strategy.__name__
    candidate = Candidate(cls, name, settings or {}, neutral)
    has_factors = issubclass(cls, FactorStrategy)
    promised = list(LAWS)
    if has_factors:
        promised += [ties_are_symmetric, permuting_scores_permutes_factors]
    if has_factors and not draws_by_order:
        promised.append(factors_of_one_leave_no_trace)
    if not draws_by_order:
        promised.append(permuting_modalities_changes_nothing_but_names)
    if neutral is not None:
        promised.append(without_its_rule_it_trains_the_bits_of_joint)
    laws: dict[str, Callable[[], None]] = {}
    for law in promised:
        words = law.__name__.replace("_", " ")
        if "problem" in signature(law).parameters:
            laws |= {f"{words} ({kind})": partial(law, candidate, candidate.on(PROBLEMS[kind])) for kind in problems}
        else:
            laws[words] = partial(law, candidate)
    return laws


@dataclass(frozen=True)
class Candidate:
    """A strategy on trial; see ``check_strategy``."""

    cls: type[BalancingStrategy]
    name: str
    settings: Mapping[str, Any]
    neutral: Mapping[str, Any] | None

    def at_work(self, **settings: Any) -> BalancingStrategy:
        """A new one, whose rule is at work from the first step."""
        return self.cls(self.cls.Config(self.name, **{**self.settings, **settings}))

    def on(self, problem: Problem) -> Problem:
        """The problem with the network that the strategy makes of its own."""

        def model(modalities: Sequence[str] = MODALITIES, seed: int = 0) -> MultimodalModel:
            return self.cls.network(modalities, partial(problem.model, seed=seed), problem.average)

        return replace(problem, model=model)

    def ready(self, problem: Problem, model: MultimodalModel) -> BalancingStrategy:
        """A new one, set up for a network."""
        return set_up(self.at_work(), model, problem=problem)


# Laws of a strategy


def it_says_what_it_is(candidate: Candidate) -> None:
    """``cggm-med strategies`` and the docs need it."""
    expect(bool(candidate.cls.description), "description is empty, expected one line for 'cggm-med strategies'")
    expect(bool(candidate.cls.__doc__), "the class has no docstring, expected one that says what it does")


def scores_that_are_not_finite_change_no_state(candidate: Candidate) -> None:
    """One bad batch must not spoil the rest of a run."""
    model = candidate.on(SEGMENTATION).model()
    strategy = candidate.at_work()
    trained(strategy, steps=3, model=model)
    batch, before = SEGMENTATION.batch(3), copy.deepcopy(strategy.state_dict())
    real = strategy.score_sums
    for bad in (float("nan"), float("inf"), -float("inf")):
        strategy.score_sums = lambda logits, target, bad=bad: real(logits, target) * bad  # type: ignore[misc]
        _watch(strategy, model, batch, 3)
        _expect_same_state(strategy, before, f"scores of {bad}")


def a_batch_without_target_changes_no_state(candidate: Candidate) -> None:
    """Where nothing of the target occurs, no modality can be told to be better than another."""
    model = candidate.on(SEGMENTATION).model()
    strategy = candidate.at_work()
    empty = [replace(SEGMENTATION.batch(i), target=torch.zeros_like(SEGMENTATION.batch(i).target)) for i in range(2)]
    trained(strategy, steps=2, model=model, batches=empty)
    expect(finite_state(model), "the network is not finite after two batches in which nothing of the target occurs")
    if isinstance(strategy, FactorStrategy):
        _expect_ones(strategy.factor, "two batches in which nothing of the target occurs")
    trained(strategy := candidate.at_work(), steps=2, model=(model := candidate.on(SEGMENTATION).model()))
    before = copy.deepcopy(strategy.state_dict())
    _watch(strategy, model, empty[0], 2)
    _expect_same_state(strategy, before, "a batch in which nothing of the target occurs")


def any_scores_give_finite_state_and_bounded_factors(candidate: Candidate) -> None:
    """At the ends of the range, at ties, and where a difference is lost in rounding."""
    for score in (
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 1.0),
        (0.3, 0.3, 0.3),
        (1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0),
        (1e-8, 1e-8, 1.0),
        (0.5, 0.5 + 1e-7, 0.5),
    ):
        board, strategy = Scoreboard.of(candidate)
        for number in range(5):
            board.show(strategy, torch.tensor(score), number)
            values = strategy.diagnostics()
            seen = values["score"].tolist()
            expect(torch.allclose(values["score"], torch.tensor(score)), f"it saw {seen} where scores were {score}")
            bad = [key for key, value in values.items() if not torch.isfinite(value).all()]
            expect(not bad and finite_state(strategy), f"scores of {score} give a state that is not finite {bad}")
            if isinstance(strategy, FactorStrategy):
                factor = strategy.factor
                bounded = bool(((factor >= 0) & (factor <= MAX_FACTOR)).all())
                expect(bounded, f"scores of {score} give factors {factor.tolist()}, expected 0 to {MAX_FACTOR:g}")


def ties_are_symmetric(candidate: Candidate) -> None:
    """Nobody is ahead, so nobody's update is changed."""
    for value in (0.0, 0.37, 1.0):
        board, strategy = Scoreboard.of(candidate)
        for number in range(5):
            board.show(strategy, torch.full((3,), value), number)
        _expect_ones(strategy.get_buffer("factor"), f"equal scores of {value}")


def permuting_scores_permutes_factors(candidate: Candidate) -> None:
    """Whose scores they are decides, not which modality comes first."""
    random = torch.Generator().manual_seed(4)
    scores = torch.rand(12, 3, generator=random) * 0.5 + torch.linspace(0, 0.4, 12)[:, None] * torch.tensor([1, 0.5, 0])
    order = [2, 0, 1]
    boards = [Scoreboard.of(candidate) for _ in range(2)]
    for number, score in enumerate(scores):
        for (board, strategy), shown in zip(boards, (score, score[order]), strict=True):
            board.show(strategy, shown, number)
    straight, permuted = (strategy.get_buffer("factor") for _, strategy in boards)
    moved = (straight - 1).abs().max() > 1e-3
    expect(bool(moved), "the factors are still 1 after 12 steps with different scores; give settings that let it act")
    same = torch.allclose(permuted, straight[order], rtol=1e-3, atol=1e-4)
    expect(same, f"factors {straight.tolist()} became {permuted.tolist()} when scores were given in the order {order}")


def factors_of_one_leave_no_trace(candidate: Candidate) -> None:
    """A factor is all that it does to an update."""
    for optimizer in ("sgd", "adamw"):
        models = []
        for modulate in (True, False):
            strategy: Any = candidate.at_work()
            strategy.set_factors = lambda *_: None
            if not modulate:
                strategy.modulate = lambda *_: None
            models.append(trained(strategy, optim=OptimConfig(name=optimizer), problem=candidate.on(SEGMENTATION)))
        expect(same_bits(*models), f"modulate changes the update by {optimizer} although every factor is 1")


def it_modulates_every_encoder_if_it_says_so(candidate: Candidate) -> None:
    """Against itself with its modulation switched off: at least one gradient or learning rate of each differs."""
    seen = {}
    for on in (True, False):
        model = candidate.on(CLASSIFICATION).model()
        strategy: Any = candidate.ready(CLASSIFICATION, model)
        if isinstance(strategy, FactorStrategy):
            strategy.set_factors(slice(None), torch.tensor([0.6, 0.7, 0.8]), torch.tensor(True))
            strategy.set_factors = lambda *_: None  # type: ignore[method-assign]
        if not on:
            strategy.modulate = lambda *_: None
            strategy.combine = partial(BalancingStrategy.combine, strategy)
            strategy.backward = partial(BalancingStrategy.backward, strategy)
        one_step(model, strategy, make_optimizer(model, strategy, SGD, CPU), CLASSIFICATION.batch(), 0, CLASSIFICATION)
        seen[on] = model
    says, left = candidate.cls.modulates, []
    for modality in MODALITIES:
        pairs = zip(*(seen[on].modality_parameters(modality) for on in (True, False)), strict=True)
        left += [modality] if all(torch.equal(a, b) for a, b in pairs) else []
    found = f"the update of {', '.join(left)} is not changed" if left else "every encoder's update is changed"
    expect(says == (not left), f"modulates is {says}, but {found}")


def an_encoder_without_parameters_is_an_error(candidate: Candidate) -> None:
    """Balancing it would silently do nothing."""
    model = candidate.on(SEGMENTATION).model()
    for parameter in model.modality_parameters("t1"):
        parameter.requires_grad_(False)
    try:
        set_up(candidate.at_work(), model)
    except ValueError as error:
        found = str(error)
    else:
        found = "no error"
    expected = "'t1' matches no trainable parameter"
    expect(expected in found, f"setup with a frozen encoder gives {found}, expected a ValueError: {expected}")


def diagnostics_are_one_value_a_modality_or_scalars(candidate: Candidate) -> None:
    """Copies on the model's device, for which nothing has to wait."""
    model = candidate.on(SEGMENTATION).model()
    strategy = candidate.ready(SEGMENTATION, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    one_step(model, strategy, optimizer, SEGMENTATION.batch(), 0)
    values = strategy.diagnostics()
    for key, value in values.items():
        expect(isinstance(value, Tensor), f"{key} is a {type(value).__name__}, expected a tensor on the device")
        shape = tuple(value.shape)
        expect(
            shape in ((), (3,)), f"{key} of 3 modalities has shape {shape}, expected one value a modality or a scalar"
        )
    expect(bool((values["score"] > 0).any()), f"after one step the scores are {values['score'].tolist()}, expected > 0")
    before = copy.deepcopy(values)
    one_step(model, strategy, optimizer, SEGMENTATION.batch(1), 1)
    changed = [key for key, value in values.items() if not torch.equal(value, before[key])]
    expect(not changed, f"{', '.join(changed)} changed in the next step, expected a copy: .clone()")


def the_model_predicts_without_the_strategy(candidate: Candidate) -> None:
    """Whoever uses the weights needs not know how they were trained."""
    model = trained(candidate.at_work(), steps=1, problem=candidate.on(SEGMENTATION)).eval()
    shape = tuple(model(SEGMENTATION.batch().inputs).shape)
    expect(shape == (2, 2, 8, 8, 8), f"predictions have shape {shape}, expected (2, 2, 8, 8, 8)")
    added = set(model.state_dict()) ^ set(candidate.on(SEGMENTATION).model().state_dict())
    expect(not added, f"the network's weights have other names than before: {', '.join(sorted(added))}")


def every_parameter_is_covered_once(candidate: Candidate) -> None:
    """Each parameter belongs to one modality or to what they share, in ``coverage.json`` as in the network."""
    model = candidate.on(SEGMENTATION).model()
    found: Any = coverage(model, candidate.ready(SEGMENTATION, model))
    names = Counter([*found["shared"], *(name for names in found["modalities"].values() for name in names)])
    expected = Counter(dict(model.named_parameters()).keys())
    wrong = sorted((names - expected) + (expected - names))
    expect(not wrong, f"{', '.join(wrong)}: expected once, as a modality's or as shared; see modality_parameters")


def a_gradient_that_is_not_finite_skips_the_step(candidate: Candidate) -> None:
    """And the next step goes on."""
    model: Any = candidate.on(SEGMENTATION).model()
    strategy, monitor = candidate.ready(SEGMENTATION, model), Monitor(3)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    one_step(model, strategy, optimizer, SEGMENTATION.batch(), 0, monitor=monitor)
    before = copy.deepcopy(model)
    handle = next(model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    one_step(model, strategy, optimizer, SEGMENTATION.batch(), 1, monitor=monitor)
    expect(same_bits(model, before), "a step whose gradient is infinite changes the network")
    skipped = int(monitor.skipped_steps.item())
    expect(skipped == 1, f"one infinite gradient is counted as {skipped} skipped steps")
    handle.remove()
    one_step(model, strategy, optimizer, SEGMENTATION.batch(), 2, monitor=monitor)
    expect(
        finite_state(model) and not same_bits(model, before), "after an infinite gradient the next step does not train"
    )


def learning_rates_are_left_as_they_were(candidate: Candidate) -> None:
    """A factor on a learning rate lasts for one step."""
    model = candidate.on(SEGMENTATION).model()
    strategy = candidate.ready(SEGMENTATION, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    for number in range(3):
        one_step(model, strategy, optimizer, SEGMENTATION.batch(number), number)
    rates = [group["lr"] for group in optimizer.param_groups]
    expect(rates == [1e-3] * len(rates), f"learning rates of 1e-3 are {rates} after three steps")


# Laws of a strategy on each problem


def training_stays_finite_and_learns(candidate: Candidate, problem: Problem) -> None:
    """The loss of the fused prediction falls by a tenth in 25 steps."""
    model = problem.model()
    strategy = candidate.ready(problem, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(lr=1e-2), CPU)
    losses = [one_step(model, strategy, optimizer, problem.batch(), i, problem)["task"].item() for i in range(25)]
    expect(finite_state(model), "the network is not finite after 25 steps")
    expect(finite_state(strategy), "the strategy's state is not finite after 25 steps")
    first, last = losses[0], losses[-1]
    expect(last < 0.9 * first, f"25 steps on one batch bring the loss from {first:.3g} to {last:.3g}")


def the_same_steps_give_the_same_bits(candidate: Candidate, problem: Problem) -> None:
    """What is random depends on the seed and the step, see ``Step.generator``."""
    models, strategies = [], []
    for draws in (0, 1):
        models.append(problem.model())
        strategies.append(candidate.ready(problem, models[-1]))
        torch.rand(draws)  # whoever draws from the global stream draws something else the second time
        optimizer = make_optimizer(models[-1], strategies[-1], OptimConfig(), CPU)
        for number in range(3):
            one_step(models[-1], strategies[-1], optimizer, problem.batch(number), number, problem)
    expect(same_bits(*models), "two trainings with the same seed end with different networks")
    expect(same_bits(*strategies), "two trainings with the same seed end with different states of the strategy")


def one_modality_trains_as_if_there_were_nothing_to_balance(candidate: Candidate, problem: Problem) -> None:
    """Exactly the joint step, if the rule can be switched off: with one modality nothing is left to compare."""
    strategy = candidate.at_work()
    model = trained(strategy, steps=3, model=problem.model(("t1",)), problem=problem)
    expect(finite_state(model), "with one modality the network is not finite after three steps")
    if isinstance(strategy, FactorStrategy):
        _expect_ones(strategy.factor, "three steps with one modality")
    if candidate.neutral is not None:
        detached = {key: value for key, value in candidate.neutral.items() if key == "unimodal_weight"}
        alone = trained(candidate.at_work(**detached), steps=3, model=problem.model(("t1",)), problem=problem)
        joint = trained(make("joint"), steps=3, model=problem.model(("t1",)), problem=problem)
        expect(same_bits(alone, joint), "one modality by itself is trained otherwise than by joint training")


def without_its_rule_it_trains_the_bits_of_joint(candidate: Candidate, problem: Problem) -> None:
    """With the settings that are said to be neutral."""
    neutral = dict(candidate.neutral or {})
    strategy = candidate.cls(candidate.cls.Config(candidate.name, **neutral))
    kept = same_bits(trained(strategy, problem=problem), trained(make("joint", heads=False), problem=problem))
    expect(kept, f"with {neutral} it does not train the same bits as joint training")


def permuting_modalities_changes_nothing_but_names(candidate: Candidate, problem: Problem) -> None:
    """Scores and factors, whatever they come from, follow their modality."""
    model, turned = problem.model(), problem.model(MODALITIES[::-1])
    state = model.state_dict()
    if "head.weight" in state:
        state["head.weight"] = torch.cat(state["head.weight"].split(5, dim=1)[::-1], dim=1)
    turned.load_state_dict(state)
    strategy, other = candidate.ready(problem, model), candidate.ready(problem, turned)
    if strategy.heads is not None and other.heads is not None:
        other.heads.load_state_dict(strategy.heads.state_dict())
    for number in range(2):
        for s, m in ((strategy, model), (other, turned)):
            optimizer = make_optimizer(m, s, OptimConfig(name="sgd"), CPU)
            one_step(m, s, optimizer, problem.batch(0, MODALITIES), number, problem)
    turned_values = other.diagnostics()
    for key, value in strategy.diagnostics().items():
        expected = value.flip(0) if value.ndim else value
        # One ReLU that rounding switches is seen in the cosine of a small encoder's gradients.
        near = 1e-2 if "cosine" in key else 1e-5
        same = torch.allclose(turned_values[key], expected, rtol=1e-4, atol=near, equal_nan=True)
        found = turned_values[key].tolist()
        expect(same, f"{key} is {value.tolist()}, and {found} with the modalities in the reverse order")


def a_batch_that_lacks_a_modality_leaves_its_encoder_and_factor_alone(candidate: Candidate, problem: Problem) -> None:
    """While the others are trained."""
    model = problem.model()
    strategy = candidate.ready(problem, model)
    optimizer = make_optimizer(model, strategy, SGD, CPU)
    for number in range(3):
        one_step(model, strategy, optimizer, problem.batch(number), number, problem)
    before, values = copy.deepcopy(model), strategy.diagnostics()
    batch = problem.batch(3)
    lacking = replace(batch, inputs={m: batch.inputs[m] for m in ("flair", "t1ce")})
    one_step(model, strategy, optimizer, lacking, 3, problem)
    expect(same_bits(model.encoders["t1"], before.encoders["t1"]), "an encoder is trained by a batch that lacks it")
    trains = any(not same_bits(model.encoders[m], before.encoders[m]) for m in ("flair", "t1ce"))
    expect(trains, "a batch that lacks a modality trains none of the others")
    for key, value in strategy.diagnostics().items():
        if key in ("score", "factor"):
            kept = bool(value[1] == values[key][1])
            expect(kept, f"{key} of a modality that a batch lacks went from {values[key][1]} to {value[1]}")
            expect(bool(torch.isfinite(value).all()), f"{key} is {value.tolist()} after a batch that lacks a modality")


def a_modality_that_no_sample_has_is_as_if_it_had_never_been_loaded(candidate: Candidate, problem: Problem) -> None:
    """Bit for bit, whatever stands in its place; its encoder's gradient is exactly 0, and its state does not change."""
    ends = []
    for held in (0.0, float("nan"), None):  # zeros, junk, or nothing in the place of the absent images
        model = problem.model()
        strategy = candidate.ready(problem, model)
        optimizer = make_optimizer(model, strategy, SGD, CPU)
        one_step(model, strategy, optimizer, problem.batch(0), 0, problem)
        before, values = copy.deepcopy(model), strategy.diagnostics()
        batch = lacking(problem.batch(1), {"t1": range(len(problem.batch(1).ids))}, held)
        losses = one_step(model, strategy, optimizer, batch, 1, problem, settings=WITH_SUBSETS)
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        expect(not bad, f"losses {', '.join(bad)} are not finite when no sample has t1")
        expect("t1" not in losses, f"when no sample has t1, its own loss is {losses.get('t1')}, expected none")
        moved = [float(g.abs().max()) for g in model.modality_gradients("t1")]
        expect(not any(moved), f"the gradient of t1's encoder is up to {max(moved, default=0)} when no sample has t1")
        trained_alone = same_bits(model.encoders["t1"], before.encoders["t1"])
        expect(trained_alone, "t1's encoder is trained by a batch in which no sample has t1")
        expect(finite_state(model) and finite_state(strategy), "a state is not finite when no sample has t1")
        for key, value in strategy.diagnostics().items():
            if key in ("score", "factor"):
                expect(bool(value[1] == values[key][1]), f"{key} of t1 changed in a batch in which no sample has it")
        ends.append(model)
    same = all(same_bits(ends[0], other) for other in ends[1:])
    expect(same, "a modality that no sample has changes the training by what stands in its place")


def a_sample_that_lacks_a_modality_is_left_out_of_its_loss_and_score(candidate: Candidate, problem: Problem) -> None:
    """Loss and score of t1 are those of the other samples alone, computed by hand; the batch may come in parts."""
    for held in (0.0, float("nan")):
        model = problem.model()
        strategy = candidate.ready(problem, model)
        whole = problem.batch(0, samples=4)
        batch = lacking(whole, {"t1": [0, 2], "flair": [1]}, held)
        rows = torch.tensor([1, 3])
        features = model.encode({m: torch.as_tensor(whole.inputs[m])[rows] for m in MODALITIES})
        target = whole.target[rows]
        own = strategy.unimodal(features)
        shares = model.linear_shares(features) if strategy.from_shares else None
        losses = one_step(model, strategy, make_optimizer(model, strategy, SGD, CPU), batch, 0, problem)
        bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
        expect(not bad, f"losses {', '.join(bad)} are not finite when samples lack modalities")
        expect(finite_state(model) and finite_state(strategy), "a state is not finite when samples lack modalities")
        if "t1" in own:
            expected, found = problem.criterion(own["t1"].logits, target), losses["t1"]
            near = torch.allclose(found, expected, rtol=1e-4)
            expect(near, f"the loss of t1 is {found.item():.6g}; over the samples that have it, {expected.item():.6g}")
            logits = own["t1"].logits if shares is None else shares["t1"]
            score, seen = mean_score(strategy.score_sums(logits, target)[None])[0].item(), strategy.score[1].item()
            same = abs(score - seen) < 1e-5
            expect(same, f"the score of t1 is {seen:.6g}; over the samples that have it, {score:.6g}")
    try:
        one, *divided = (_in_parts(candidate, problem, WITH_SUBSETS, parts, lack=True) for parts in (1, 2, 4))
    except ConfigError:
        return
    for model, _, losses in divided:
        for key, value in model.state_dict().items():
            near = torch.allclose(value, one[0].state_dict()[key], rtol=1e-3, atol=1e-5)
            expect(near, f"weight {key} differs when a batch whose samples lack modalities is computed in parts")
        for key, value in losses.items():
            near = torch.allclose(value, one[2][key], rtol=1e-4, atol=1e-5)
            expect(near, f"loss {key} differs when a batch whose samples lack modalities is computed in parts")


def it_resumes_exactly(candidate: Candidate, problem: Problem) -> None:
    """Five steps at once equal two, a reload into new objects, and three more, which begin an epoch."""
    model, other = problem.model(), problem.model(seed=9)
    strategy, second = candidate.ready(problem, model), candidate.ready(problem, other)
    optimizer, resumed = (make_optimizer(m, s, OptimConfig(), CPU) for m, s in ((model, strategy), (other, second)))
    for number in range(3, 8):
        if number == 5:
            other.load_state_dict(copy.deepcopy(model.state_dict()))
            second.load_state_dict(copy.deepcopy(strategy.state_dict()))
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        one_step(model, strategy, optimizer, problem.batch(number), number, problem)
        if number >= 5:
            one_step(other, second, resumed, problem.batch(number), number, problem)
    remedy = "what it remembers must be registered buffers, in prepare"
    expect(same_bits(other, model), f"a resumed training ends with another network; {remedy}")
    expect(same_bits(second, strategy), f"a resumed training ends with another state of the strategy; {remedy}")


def a_batch_in_parts_gives_the_update_of_the_whole_batch(candidate: Candidate, problem: Problem) -> None:
    """In SGD, where an update is the gradient; Adam would turn differences of rounding into differences of sign.

    A strategy whose rule needs the whole batch at once refuses with a ``ConfigError``.
    """
    # Either number of parts is tried once: what it could break does not depend on the subsets.
    for options, division in ((TrainConfig(), 2), (WITH_SUBSETS, 4)):
        try:
            whole, *divided = (_in_parts(candidate, problem, options, parts) for parts in (1, division))
        except ConfigError:
            continue
        for model, strategy, losses in divided:
            for kind, found, expected in (
                ("weight", model.state_dict(), whole[0].state_dict()),
                ("state", strategy.state_dict(), whole[1].state_dict()),
                ("loss", losses, whole[2]),
            ):
                for key, value in found.items():
                    # One ReLU that rounding switches is seen in the cosine of a small encoder's gradients.
                    near = 1e-2 if "cosine" in key else 1e-4 if kind == "state" else 1e-5
                    same = torch.allclose(value, expected[key], rtol=1e-4 if kind == "loss" else 1e-3, atol=near)
                    expect(same, f"{kind} {key} differs when a batch is computed in parts (train.accumulate)")
        expect(not same_bits(whole[0], problem.model()), "three steps of SGD change nothing")


def bfloat16_autocast_stays_finite(candidate: Candidate, problem: Problem) -> None:
    """With weights in float32."""
    model = problem.model()
    strategy = candidate.ready(problem, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(), CPU)
    options = TrainConfig(modality_dropout=0.2, subset_view=0.5)
    for number in range(2):
        losses = one_step(
            model,
            strategy,
            optimizer,
            problem.batch(number),
            number,
            problem,
            autocast=lambda: torch.autocast("cpu", torch.bfloat16),
            settings=options,
        )
    bad = [name for name, loss in losses.items() if not torch.isfinite(loss)]
    expect(not bad, f"losses {', '.join(bad)} are not finite in bfloat16")
    expect(finite_state(model), "the network is not finite after two steps in bfloat16")
    expect(
        all(p.dtype == torch.float32 for p in model.parameters()), "the network's weights are not in float32 any more"
    )


LAWS: tuple[Callable[..., None], ...] = (
    it_says_what_it_is,
    an_encoder_without_parameters_is_an_error,
    every_parameter_is_covered_once,
    the_model_predicts_without_the_strategy,
    diagnostics_are_one_value_a_modality_or_scalars,
    any_scores_give_finite_state_and_bounded_factors,
    scores_that_are_not_finite_change_no_state,
    a_batch_without_target_changes_no_state,
    it_modulates_every_encoder_if_it_says_so,
    a_gradient_that_is_not_finite_skips_the_step,
    learning_rates_are_left_as_they_were,
    training_stays_finite_and_learns,
    the_same_steps_give_the_same_bits,
    one_modality_trains_as_if_there_were_nothing_to_balance,
    a_batch_that_lacks_a_modality_leaves_its_encoder_and_factor_alone,
    it_resumes_exactly,
    a_batch_in_parts_gives_the_update_of_the_whole_batch,
    a_modality_that_no_sample_has_is_as_if_it_had_never_been_loaded,
    a_sample_that_lacks_a_modality_is_left_out_of_its_loss_and_score,
    bfloat16_autocast_stays_finite,
)


class Scoreboard(MultimodalModel):
    """A network that shows a strategy chosen scores: a modality's only feature, and its logit, is its score.

    The fused logit is the mean over all modalities, those that are left out counting as 0.
    """

    def __init__(self) -> None:
        super().__init__(MODALITIES)
        self.encoders = nn.ModuleDict({m: nn.Linear(1, 1) for m in MODALITIES})
        self.head = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.head.weight)

    @classmethod
    def of(cls, candidate: Candidate) -> tuple[Scoreboard, BalancingStrategy]:
        """One, and a strategy that watches it."""
        board, strategy = cls(), candidate.at_work()
        heads = UnimodalHeads({m: VectorHead(1, 1) for m in MODALITIES})
        strategy.setup(board, lambda: heads, cls.score_sums, 5, cls.score_sums)
        return board, strategy

    @staticmethod
    def score_sums(logits: Tensor, target: Tensor) -> Tensor:
        """The logit itself, as a score."""
        return torch.stack([logits.mean(), torch.ones(()), torch.ones(())])[None]

    def fuse(self, features: Mapping[str, Features]) -> tuple[Tensor, ...]:
        """See the class."""
        present = [f.maps[0] if f.present is None else f.maps[0] * f.present[:, None] for f in features.values()]
        return (torch.stack(present).sum(0) / len(self.modalities),)

    def show(self, strategy: BalancingStrategy, score: Tensor, number: int) -> None:
        """Let the strategy watch a step with these scores, and losses of one minus the logit."""
        features = {m: Features((s.view(1, 1),)) for m, s in zip(MODALITIES, score, strict=True)}
        unimodal = {m: UnimodalOutput(f.maps[0], f.maps[0]) for m, f in features.items()}
        outputs = replace(self.predict([features])[0], unimodal=unimodal)
        target, step = torch.ones(1, 1), Step(number, 100)
        strategy.watch(self, outputs, target, step)
        if isinstance(strategy, FactorStrategy):  # whose factors may follow from losses; others may need a real batch
            strategy.losses(self, outputs, target, lambda logits, truth: (truth - logits).mean(), step)


def _watch(strategy: BalancingStrategy, model: MultimodalModel, batch: Batch, number: int) -> None:
    features = model.encode(batch.inputs)
    outputs = replace(model.predict([features])[0], unimodal=strategy.unimodal(features))
    step = Step(number, 100)
    strategy.see(batch, step)
    strategy.watch(model, outputs, batch.target, step)
    strategy.losses(model, outputs, batch.target, SEGMENTATION.criterion, step)


def _in_parts(
    candidate: Candidate, problem: Problem, options: TrainConfig, parts: int, lack: bool = False
) -> tuple[MultimodalModel, BalancingStrategy, dict[str, Tensor]]:
    """What three steps with each batch in parts come to."""
    model = problem.model()
    strategy = candidate.ready(problem, model)
    optimizer = make_optimizer(model, strategy, OptimConfig(name="sgd"), CPU)
    settings = replace(options, accumulate=parts)
    for number in range(3):
        batch = problem.batch(number, samples=4)
        batch = lacking(batch, {"t1": [0, 2], "flair": [1], "t1ce": [0, 1, 2, 3]}) if lack else batch
        losses = one_step(model, strategy, optimizer, batch, number, problem, settings=settings, clip_norm=10)
    return model, strategy, losses


def _expect_same_state(strategy: BalancingStrategy, before: Mapping[str, Tensor], what: str) -> None:
    changed = [key for key, value in strategy.state_dict().items() if not torch.equal(value, before[key])]
    remedy = "write buffers through keep(), which leaves them where the step is not usable"
    expect(not changed, f"{what} changed {', '.join(changed)}; {remedy}")


def _expect_ones(factor: Tensor, what: str) -> None:
    expect(torch.allclose(factor, torch.ones_like(factor)), f"{what} gave factors {factor.tolist()}, expected 1")
