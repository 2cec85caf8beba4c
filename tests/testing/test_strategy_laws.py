"""Each law of ``check_strategy`` can fail: a strategy that breaks it, and it alone, is told so."""

import re
from dataclasses import dataclass

import pytest
import torch

from cggm_med.strategies.base import BalancingStrategy, FactorStrategy, StrategyConfig
from cggm_med.testing import check_strategy
from cggm_med.testing.strategies import strategy_laws


@dataclass(frozen=True)
class RightConfig(StrategyConfig):
    strength: float = 0.5


class Right(FactorStrategy):
    """Larger updates for whoever scores below the mean."""

    Config = RightConfig
    description = "keeps all laws"

    def factors(self, rows, score, usable, step):
        return 1 + self.config.strength * self.lead(score)

    @staticmethod
    def lead(score):
        lead = score.mean() - score
        return torch.where(lead.abs() < 1e-6, 0, lead)


class Plain(BalancingStrategy):
    """Does nothing."""

    description = "keeps all laws"


class Silent(Right):
    """Does not say what it does."""

    description = ""


class Thaws(Right):
    """Trains what was frozen."""

    def setup(self, model, *others):
        model.requires_grad_(True)
        super().setup(model, *others)


class Remembers(Right):
    """What it saw last, whether it was usable or not."""

    def prepare(self, model):
        super().prepare(model)
        self.register_buffer("last", torch.zeros(len(model.modalities)))

    def factors(self, rows, score, usable, step):
        self.last[rows] = torch.where(self.worth_it(score), score, self.last[rows])
        return super().factors(rows, score, usable, step)


class RemembersNonsense(Remembers):
    """Remembers NaN."""

    @staticmethod
    def worth_it(score):
        return score.sum() != 0


class RemembersNothing(Remembers):
    """Remembers scores of batches without target."""

    @staticmethod
    def worth_it(score):
        return torch.isfinite(score).all()


class Unbounded(Right):
    """Divides by scores near 0."""

    def factors(self, rows, score, usable, step):
        return (score.mean() + 1e-3) / (score + 1e-3)


class Unfair(Right):
    """Whoever is not ahead is damped, at a tie everybody."""

    def factors(self, rows, score, usable, step):
        tie = (self.lead(score) == 0).all() & (score.numel() > 1)
        return torch.where(tie, 0.9, super().factors(rows, score, usable, step))


class Immobile(Right):
    """Never moves."""

    def factors(self, rows, score, usable, step):
        return torch.ones_like(score)


class FavoursTheFirst(Right):
    """The first modality is moved most."""

    def factors(self, rows, score, usable, step):
        order = torch.arange(score.numel())
        return 1 + (super().factors(rows, score, usable, step) - 1) / (1 + order)


class Numbers(Plain):
    """Logs a value that belongs to places, not to modalities."""

    def diagnostics(self):
        return {**super().diagnostics(), "number": torch.arange(self.score.numel())}


class LeavesATrace(Right):
    """Changes the gradient whatever the factors are."""

    def modulate(self, model, optimizer, step):
        super().modulate(model, optimizer, step)
        for parameter in model.encoders.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(1.001)


class Denies(Right):
    """Modulates, and does not say so."""

    modulates = False


class Boasts(Plain):
    """Says that it modulates, and does not."""

    modulates = True


class ShowsItsBuffers(Right):
    """Hands out what it goes on writing to."""

    def diagnostics(self):
        return {**super().diagnostics(), "factor": self.factor}


class ShowsNumbers(Plain):
    """Makes the CPU wait for the device."""

    def diagnostics(self):
        return {**super().diagnostics(), "weight": 1.0}


class GrowsTheModel(Plain):
    """Leaves something in the network."""

    def prepare(self, model):
        super().prepare(model)
        model.register_buffer("balance", torch.zeros(()))


class TakesTheHead(Plain):
    """Says that the head belongs to every modality."""

    def prepare(self, model):
        super().prepare(model)
        model.modality_modules = lambda modality: (model.encoders[modality], model.head)


class DecaysWeights(Plain):
    """Changes weights behind the optimizer's back."""

    def modulate(self, model, optimizer, step):
        with torch.no_grad():
            for parameter in model.head.parameters():
                parameter.mul_(0.999)


class SlowsDown(Plain):
    """Changes learning rates for good."""

    optimizer = None

    def modulate(self, model, optimizer, step):
        self.optimizer = optimizer

    def adapt_features(self, features, step):
        for group in self.optimizer.param_groups if self.optimizer and step.part == 0 else ():
            group["lr"] *= 0.9
        return features


class StandsStill(Plain):
    """Learns a thousand times too slowly."""

    modulates = True

    def modulate(self, model, optimizer, step):
        for group in optimizer.param_groups:
            group["lr"] *= 1e-3


class Undefined(Plain):
    """Keeps a number that ends as 0 / 0."""

    def prepare(self, model):
        super().prepare(model)
        self.register_buffer("ratio", torch.zeros(()))

    def observe(self, rows, score, usable, step):
        if step.number == 24:
            self.ratio /= 0


class Draws(Plain):
    """From the global stream of random numbers."""

    def combine(self, model):
        super().combine(model)
        for parameter in model.head.parameters():
            parameter.grad.add_(1e-3 * torch.randn_like(parameter))


class DampsTheOnlyOne(Right):
    """Changes the update of a modality that is alone."""

    def factors(self, rows, score, usable, step):
        return super().factors(rows, score, usable, step) * (1.1 if self.score.numel() == 1 else 1)


class TrainsHeads(Plain):
    """Cannot be switched off."""

    unimodal_weight = 0.3


class CountsTheAbsent(Right):
    """Changes the factor of a modality that a batch lacks."""

    def observe(self, rows, score, usable, step):
        super().observe(rows, score, usable, step)
        if score.numel() < self.factor.numel():
            self.factor += 0.1


class Forgets(Right):
    """Counts in a number that no checkpoint holds."""

    steps = 0

    def factors(self, rows, score, usable, step):
        self.steps += 1
        return 1 + (super().factors(rows, score, usable, step) - 1) / self.steps


class AddsUpParts(Plain):
    """Sums over the parts of a batch instead of averaging."""

    def losses(self, *arguments):
        losses = super().losses(*arguments)
        return {name: arguments[-1].parts * loss for name, loss in losses.items()}


class DividesByZero(Plain):
    """Cannot compute in bfloat16."""

    def losses(self, model, outputs, target, criterion, step):
        losses = super().losses(model, outputs, target, criterion, step)
        return losses | {"task": losses["task"] / (outputs.logits.dtype != torch.bfloat16)}


class RevivesTheAbsent(Plain):
    """Moves the encoder of a modality that no sample of a batch has."""

    def watch(self, model, outputs, target, step):
        super().watch(model, outputs, target, step)
        self.absent = [m for m, count in (step.counts or {}).items() if not count]

    def combine(self, model):
        super().combine(model)
        for parameter in (p for m in self.absent for p in model.encoders[m].parameters()):
            parameter.grad = torch.full_like(parameter, 0.01)


class CountsTheLacking(Plain):
    """Divides a modality's loss by all samples, also by those that lack it."""

    def losses(self, model, outputs, target, criterion, step):
        losses = super().losses(model, outputs, target, criterion, step)
        counts = step.counts or dict.fromkeys(model.modalities, 1)
        return {m: loss * counts.get(m, 1) / max(counts.values()) for m, loss in losses.items()}


# What is wrong, the first law that says so and how, and further laws that it breaks by the same fault.
WRONG = [
    (Silent, "it says what it is", "description is empty"),
    (Thaws, "an encoder without parameters is an error", "a frozen encoder gives no error, expected a ValueError"),
    (TakesTheHead, "every parameter is covered once", "head.conv.conv.bias, head.conv.conv.weight: expected once"),
    (GrowsTheModel, "the model predicts without the strategy", "weights have other names than before: balance"),
    (ShowsNumbers, "diagnostics are one value a modality or scalars", "weight is a float, expected a tensor"),
    (ShowsItsBuffers, "diagnostics are one value a modality or scalars", "factor changed in the next step"),
    (Unbounded, "any scores give finite state and bounded factors", r"scores of \(1.0, 0.0, 0.0\) give factors"),
    (RemembersNonsense, "scores that are not finite change no state", "scores of nan changed last; write buffers"),
    (RemembersNothing, "a batch without target changes no state", "nothing of the target occurs changed last"),
    (Denies, "it modulates every encoder if it says so", "modulates is False, but every encoder's update is changed"),
    (Boasts, "it modulates every encoder if it says so", "modulates is True, but the update of flair, t1, t1ce is not"),
    (DecaysWeights, "a gradient that is not finite skips the step", "gradient is infinite changes the network"),
    (SlowsDown, "learning rates are left as they were", "1e-3 are .0.00081.* after three steps", "it resumes exactly"),
    (StandsStill, "training stays finite and learns", "25 steps on one batch bring the loss from 1.34 to 1.3"),
    (Undefined, "training stays finite and learns", "the strategy's state is not finite after 25 steps"),
    (Draws, "the same steps give the same bits", "end with different networks", "it resumes exactly"),
    (DampsTheOnlyOne, "one modality trains as if there were nothing to balance", "with one modality gave factors .1.1"),
    (
        CountsTheAbsent,
        "a batch that lacks a modality leaves its encoder and factor alone",
        "factor of a modality that",
        "a modality that no sample has is as if it had never been loaded",
    ),
    (
        RevivesTheAbsent,
        "a modality that no sample has is as if it had never been loaded",
        "the gradient of t1's encoder is up to 0.0",
    ),
    (
        CountsTheLacking,
        "a sample that lacks a modality is left out of its loss and score",
        "the loss of t1 is .*; over the samples that have it, ",
    ),
    (Forgets, "it resumes exactly", "ends with another network; what it remembers must be registered buffers"),
    (
        AddsUpParts,
        "a batch in parts gives the update of the whole batch",
        "weight encoders.flair.0.weight differs",
        "a sample that lacks a modality is left out of its loss and score",
    ),
    (DividesByZero, "bfloat16 autocast stays finite", "losses task are not finite in bfloat16"),
    (Unfair, "ties are symmetric", "equal scores of 0.0 gave factors .*, expected 1"),
    (Immobile, "permuting scores permutes factors", "the factors are still 1 after 12 steps with different scores"),
    (
        FavoursTheFirst,
        "permuting scores permutes factors",
        r"became .* when scores were given in the order \[2, 0, 1\]",
        "permuting modalities changes nothing but names",
    ),
    (LeavesATrace, "factors of one leave no trace", "modulate changes the update by sgd although every factor is 1"),
    (Numbers, "permuting modalities changes nothing but names", r"number is \[0, 1, 2\], and \[0, 1, 2\] with"),
]


def broken(strategy, **options):
    """What is said of each law that a strategy breaks, on the fastest problem."""
    found = {}
    for words, law in strategy_laws(strategy, problems=["classification"], **options).items():
        try:
            law()
        except AssertionError as error:
            found[words.removesuffix(" (classification)")] = str(error)
        except (TypeError, AttributeError, ValueError):
            pass  # what cannot be trained at all is reported by the law in question before
    return found


@pytest.mark.parametrize(("strategy", "law", "message", "too"), [(*wrong, None)[:4] for wrong in WRONG])
def test_a_strategy_that_breaks_a_law_is_told_so(strategy, law, message, too):
    found = broken(strategy)
    assert list(found) == [law, *([too] if too else [])]
    assert re.search(message, found[law])


def test_a_rule_that_cannot_be_switched_off_is_told_so():
    found = broken(TrainsHeads, neutral={})
    assert list(found) == [
        "one modality trains as if there were nothing to balance",
        "without its rule it trains the bits of joint",
    ]
    assert found["without its rule it trains the bits of joint"] == (
        "with {} it does not train the same bits as joint training"
    )


def test_every_law_is_broken_by_one_of_them():
    laws = {words.split(" (")[0] for words in strategy_laws(Right, neutral={"strength": 0.0})}
    assert laws == {*(law for _, law, *_ in WRONG), "without its rule it trains the bits of joint"}


@pytest.mark.parametrize(("strategy", "neutral"), [(Right, {"strength": 0.0}), (Plain, {})])
def test_a_strategy_that_keeps_all_laws_hears_nothing(strategy, neutral):
    check_strategy(strategy, neutral=neutral, problems=["classification"])


def test_the_first_broken_law_is_named_with_the_strategy():
    with pytest.raises(
        AssertionError, match=r"^strategy Silent breaks the law 'it says what it is': description is empty"
    ):
        check_strategy(Silent)
