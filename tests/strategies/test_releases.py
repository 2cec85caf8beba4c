"""Each strategy beside what its authors' code does, transcribed from the formulas, over several steps of training.

Every transcription is the release's rule with its constants, in plain torch. Where ours is meant to differ, the test
says how; the same differences stand in docs/explanation/algorithms.md. Encoders have 4-D weights only and no biases, so
that what OGM's release modulates is all there is, and zeroed inputs, which AGM's release encodes, give zero features.
"""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cggm_med.config import OptimConfig
from cggm_med.models.late_fusion import LateFusionModel
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.randomness import Step, Stream
from cggm_med.strategies.parts.shapley import exact_plan
from cggm_med.testing.problems import CLASSIFICATION, CPU, MODALITIES, STEPS, make, one_step, set_up, vector_batch

BY_COUNT = {2: MODALITIES[:2], 3: MODALITIES}
several = pytest.mark.parametrize("modalities", BY_COUNT.values(), ids=["M=2", "M=3"])
unbounded = pytest.mark.filterwarnings("ignore:cggm.* mode=released is for comparison")
SGD = OptimConfig(name="sgd", lr=0.1, momentum=0, weight_decay=1e-4)
HEAD_SCALE = 8.0  # of the head: predictions that are far apart from the first step on


def conv_model(modalities, seed=0):
    torch.manual_seed(seed)
    encoders = {
        m: nn.Sequential(
            nn.Unflatten(1, (6, 1, 1)),
            nn.Conv2d(6, 8, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(8, 5, 1, bias=False),
            nn.Flatten(),
        )
        for m in modalities
    }
    model = LateFusionModel(encoders, dict.fromkeys(modalities, 5), 4)
    with torch.no_grad():
        model.head.weight *= HEAD_SCALE
    return model


class Release:
    """The plain training loop that the releases share: encoders, concatenation, a linear head, SGD or Adam."""

    def __init__(self, modalities, optimizer=SGD):
        self.modalities, self.model = modalities, conv_model(modalities)
        self.config = optimizer
        self.optimizer = self.new_optimizer(self.model.parameters())

    def new_optimizer(self, parameters):
        if self.config.name == "sgd":
            return torch.optim.SGD(parameters, self.config.lr, weight_decay=self.config.weight_decay)
        return torch.optim.Adam(parameters, self.config.lr, weight_decay=self.config.weight_decay)

    def encode(self, batch):
        return {m: self.model.encoders[m](batch.inputs[m]) for m in self.modalities}

    def fused(self, features):
        return self.model.head(torch.cat(list(features.values()), dim=1))

    def slices(self):
        return dict(zip(self.modalities, self.model.head.weight.split(5, dim=1), strict=True))

    def grads(self, m):
        return [p.grad for p in self.model.encoders[m].parameters()]


class Ours:
    """The same network and batches with a registered strategy."""

    def __init__(self, name, modalities, optimizer=SGD, **settings):
        self.strategy, self.model = make(name, **settings), conv_model(modalities)
        set_up(self.strategy, self.model, problem=CLASSIFICATION)
        self.optimizer = make_optimizer(self.model, self.strategy, optimizer, CPU)

    def step(self, batch, number, clip=1e9):
        return one_step(self.model, self.strategy, self.optimizer, batch, number, CLASSIFICATION, clip_norm=clip)


def batches(modalities, count, samples):
    """Whose labels say little, so that modalities disagree and accuracies go up and down."""
    for number in range(count):
        batch = vector_batch(number, modalities, samples)
        noise = torch.Generator().manual_seed(number)
        inputs = {m: x + 2 * torch.randn(x.shape, generator=noise) for m, x in batch.inputs.items()}
        yield number, replace(batch, inputs=inputs)


def expect_same_weights(ours, theirs, rtol=1e-4, atol=1e-5):
    for (name, a), b in zip(ours.model.named_parameters(), theirs.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


# CGGM, zrguo/CGGM


class CGGMRelease(Release):
    """Meant differences: none but the slice of the head, where the release's fusion is as wide as each classifier."""

    def __init__(self, modalities, optimizer, classifiers, rho, lamda, clip):
        super().__init__(modalities, optimizer)
        self.rho, self.lamda, self.clip = rho, lamda, clip
        self.classifiers = nn.ModuleDict({m: nn.Linear(5, 4) for m in modalities})
        for m in modalities:
            self.classifiers[m].load_state_dict(classifiers.heads[m].last.state_dict())
        self.classifier_optimizer = self.new_optimizer(self.classifiers.parameters())
        self.previous, self.l_gm = dict.fromkeys(modalities, 0.0), None

    def step(self, batch):
        self.optimizer.zero_grad()
        self.classifier_optimizer.zero_grad()
        features = self.encode(batch)
        loss = F.cross_entropy(self.fused(features), batch.target)
        (loss if self.l_gm is None else loss + self.lamda * self.l_gm).backward()
        predictions = {m: self.classifiers[m](h.detach()) for m, h in features.items()}
        sum(F.cross_entropy(p, batch.target) for p in predictions.values()).backward()

        score = {m: (p.argmax(1) == batch.target).double().mean().item() for m, p in predictions.items()}
        gained = {m: score[m] - self.previous[m] for m in self.modalities}
        total = sum(gained.values()) + 1e-8
        self.coefficient = {m: (total - gained[m]) / total for m in self.modalities}
        self.previous = score
        fused = {m: w.clone() for m, w in self.slices().items()}
        cosine = {
            m: F.cosine_similarity(self.classifiers[m].weight.detach().flatten(), fused[m].flatten(), dim=0)
            for m in self.modalities
        }
        b = self.coefficient
        self.l_gm = sum(abs(b[m]) - b[m] * cosine[m] for m in self.modalities) / len(self.modalities)
        for m in self.modalities:
            for gradient in self.grads(m):
                gradient.mul_(b[m] * self.rho)
        self.classifier_optimizer.step()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()


@unbounded
@several
# Sixths are no float32, and cancel all the same. A factor of 1e-8 is then known to 1e-7, which Adam would enlarge.
@pytest.mark.parametrize(("optimizer", "samples"), [("sgd", 4), ("sgd", 6), ("adam", 4)])
def test_cggm_released(modalities, optimizer, samples):
    config = OptimConfig(name=optimizer, lr=1e-2, momentum=0, weight_decay=0)
    ours = Ours("cggm_released", modalities, config, rho=1.3, guidance_weight=0.2)
    theirs = CGGMRelease(modalities, config, ours.strategy.heads, rho=1.3, lamda=0.2, clip=0.8)
    for module in (ours.model, ours.strategy.heads, theirs.model, theirs.classifiers):
        module.double()
    for number, batch in batches(modalities, 40, samples):
        batch = replace(batch, inputs={m: x.double() for m, x in batch.inputs.items()})
        ours.step(batch, number, clip=0.8)
        theirs.step(batch)
        expected = [1.3 * theirs.coefficient[m] for m in modalities]
        assert ours.strategy.factor.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    expect_same_weights(ours, theirs)
    values = ours.strategy.diagnostics()
    assert values["cancelled"] > 0  # so that it was tried where the release explodes
    assert values["largest_coefficient"] > 1e6
    assert values["sign_flips"] > 0


@unbounded
def test_with_soft_scores_the_explosions_of_the_release_do_not_happen():
    """Why hard scores are what the mode's name means."""
    for score, explodes in (("hard", True), ("soft", False)):
        config = OptimConfig(name="sgd", lr=1e-2)
        ours = Ours("cggm_released", MODALITIES, config, guidance_weight=0.0, score=score)
        for number, batch in batches(MODALITIES, 40, 4):
            ours.step(batch, number, clip=0.8)
        assert (ours.strategy.diagnostics()["largest_coefficient"].item() > 1e6) == explodes


# OGM and OGM-GE, GeWu-Lab/OGM-GE_CVPR2022


class OGMRelease(Release):
    """Meant difference: for more than two modalities, relative to the mean of the others; the release has two."""

    def __init__(self, modalities, alpha):
        super().__init__(modalities)
        self.alpha = alpha

    def step(self, batch):
        self.optimizer.zero_grad()
        features = self.encode(batch)
        F.cross_entropy(self.fused(features), batch.target).backward()
        bias, score = self.model.head.bias, {}
        for m, w in self.slices().items():
            out = torch.mm(features[m], w.t()) + bias / len(self.modalities)
            score[m] = sum(torch.softmax(out, dim=1)[i][y] for i, y in enumerate(batch.target)).item()
        self.k = {}
        for m in self.modalities:
            others = [score[n] for n in self.modalities if n != m]
            ratio = score[m] / (sum(others) / len(others))
            self.k[m] = 1 - math.tanh(self.alpha * ratio) if ratio > 1 else 1.0
            for gradient in self.grads(m):
                if gradient.ndim == 4:
                    gradient.mul_(self.k[m])
        self.optimizer.step()


@several
@pytest.mark.parametrize("alpha", [0.1, 0.8])
def test_ogm(modalities, alpha):
    ours, theirs = Ours("ogm", modalities, alpha=alpha), OGMRelease(modalities, alpha)
    damped = set()
    for number, batch in batches(modalities, 12, 16):
        ours.step(batch, number)
        theirs.step(batch)
        assert ours.strategy.factor.tolist() == pytest.approx(list(theirs.k.values()), rel=1e-4)
        damped |= {m for m, k in theirs.k.items() if k < 1}
    expect_same_weights(ours, theirs)
    assert damped


@several
def test_ogm_ge(modalities):
    """As OGM, and noise: from the same draws, the release's differs by the correction of its deviation, n - 1 for n."""
    batch = next(iter(batches(modalities, 1, 16)))[1]
    ours, theirs = Ours("ogm_ge", modalities), OGMRelease(modalities, 0.8)
    plain = conv_model(modalities)
    F.cross_entropy(plain(batch.inputs), batch.target).backward()
    ours.step(batch, 0)
    theirs.step(batch)
    for m in modalities:
        draws = Step(0, STEPS).generator(f"{Stream.GRADIENT_NOISE.value} {m}")
        for before, now in zip(plain.modality_gradients(m), ours.model.modality_gradients(m), strict=True):
            noise = (before.std().item() + 1e-8) * torch.randn(before.shape, generator=draws)
            correction = math.sqrt((before.numel() - 1) / before.numel())
            expected = theirs.k[m] * before + correction * noise
            torch.testing.assert_close(now, expected, rtol=1e-4, atol=1e-6)


# OPM, GeWu-Lab/BML_TPAMI2024


@several
def test_opm_rates(modalities):
    """Meant differences: running means of scores up to the step before, and for three the mean of the others."""
    ours = Ours("opm", modalities, warmup=0.0)
    mean, last = dict.fromkeys(modalities, 0.0), 0
    dropped = 0
    for number, batch in batches(modalities, 12, 16):
        score = {m: s.item() for m, s in zip(modalities, ours.strategy.recent_score, strict=True)}
        if number:
            seen = {m: x / (1 - 0.9**last) for m, x in mean.items()}
            assert score == pytest.approx(seen, rel=1e-4)
            q_base, lam = 0.5, 0.5
            expected = []
            for m in modalities:
                others = [seen[n] for n in modalities if n != m]
                r = math.tanh(max(seen[m] / (sum(others) / len(others)) - 1, 0))
                expected.append(min(max(q_base * (1 + lam * r), 0), 1) if r > 0 else 0)
            assert ours.strategy.diagnostics()["drop_rate"].tolist() == pytest.approx(expected, rel=1e-3)
            dropped += sum(rate > 0 for rate in expected)
        ours.step(batch, number)
        last = number + 1
        mean = {m: 0.9 * x + 0.1 * ours.strategy.score[i].item() for i, (m, x) in enumerate(mean.items())}
    assert dropped


@several
def test_opm_scales_each_sample_as_the_release_scales_all_of_them_on_average(modalities):
    """There by 1 - theta with theta = sum d_m q_m / sum d_m, here by what the sample kept."""
    features = {m: torch.ones(8, 5) for m in modalities}
    gone = torch.tensor([True, False] * 4)
    model = conv_model(modalities)
    given = {m: model.encode({m: torch.zeros(8, 6)})[m]._replace(maps=(x,)) for m, x in features.items()}
    given[modalities[0]] = given[modalities[0]]._replace(present=~gone)
    (fused,) = model.fuse(given)
    theta = 0.5 * 5 / (5 * len(modalities))
    released = torch.cat([x * (~gone)[:, None] if m == modalities[0] else x for m, x in features.items()], 1)
    released = released / (1 - theta)
    assert fused.sum().item() == pytest.approx(released.sum().item())
    assert fused.sum(1).tolist() == pytest.approx([5 * len(modalities)] * 8)


# MMPareto, GeWu-Lab/MMPareto_ICML2024


class MMParetoRelease(Release):
    """The two gradients of each encoder, combined by the min-norm rule, and its length restored tensor by tensor."""

    def __init__(self, modalities, heads, gamma=1.5):
        super().__init__(modalities)
        self.gamma = gamma
        self.heads = nn.ModuleDict({m: nn.Linear(5, 4) for m in modalities})
        for m in modalities:
            self.heads[m].load_state_dict(heads.heads[m].last.state_dict())
        self.head_optimizer = self.new_optimizer(self.heads.parameters())

    def step(self, batch):
        self.optimizer.zero_grad()
        self.head_optimizer.zero_grad()
        features = self.encode(batch)
        losses = {"both": F.cross_entropy(self.fused(features), batch.target)}
        losses |= {m: F.cross_entropy(self.heads[m](h), batch.target) for m, h in features.items()}
        own = {m: list(self.model.encoders[m].parameters()) for m in self.modalities}
        fused = {m: torch.autograd.grad(losses["both"], own[m], retain_graph=True) for m in self.modalities}
        alone = {m: torch.autograd.grad(losses[m], own[m], retain_graph=True) for m in self.modalities}
        sum(losses.values()).backward()
        self.cosine = {}
        for m in self.modalities:
            g, u = (torch.cat([x.flatten() for x in each]) for each in (fused[m], alone[m]))
            self.cosine[m] = F.cosine_similarity(g, u, dim=0).item()
            a = 0.5 if self.cosine[m] > 0 else self.min_norm(g @ g, g @ u, u @ u)
            for p, x, y in zip(own[m], fused[m], alone[m], strict=True):
                new = 2 * a * x + 2 * (1 - a) * y
                difference = p.grad.norm() / new.norm()
                p.grad = self.gamma * (new * difference if difference > 1 else new)
        self.optimizer.step()
        self.head_optimizer.step()

    @staticmethod
    def min_norm(gg, gu, uu):
        if gu >= gg:
            return 0.999
        if gu >= uu:
            return 0.001
        return (uu - gu) / (gg + uu - 2 * gu)


@several
def test_mmpareto_paper(modalities):
    """Meant difference: gamma multiplies the update after clipping, and weight decay is the optimizer's in both."""
    ours = Ours("mmpareto_paper", modalities)
    theirs = MMParetoRelease(modalities, ours.strategy.heads)
    cosines = []
    for number, batch in batches(modalities, 12, 16):
        ours.step(batch, number)
        theirs.step(batch)
        assert ours.strategy.pareto.cosine.tolist() == pytest.approx(list(theirs.cosine.values()), rel=1e-3, abs=1e-4)
        cosines += theirs.cosine.values()
    expect_same_weights(ours, theirs, rtol=1e-3, atol=1e-5)
    assert min(cosines) < 0 < max(cosines)


@several
def test_mmpareto_differs_from_its_release_where_gradients_conflict_and_only_there(modalities):
    """In the length of single tensors, and in the default by nothing else."""
    kinds = set()
    for number, batch in batches(modalities, 12, 16):
        ours, paper = (Ours(name, modalities) for name in ("mmpareto", "mmpareto_paper"))
        for each in (ours, paper):
            each.step(batch, number)
        for i, m in enumerate(modalities):
            pairs = zip(ours.model.modality_parameters(m), paper.model.modality_parameters(m), strict=True)
            same = all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in pairs)
            conflict = ours.strategy.pareto.cosine[i].item() < 0
            assert same or conflict
            kinds.add((same, conflict))
    assert {(True, False), (False, True)} <= kinds


# AGM, lihongcs/AGM


class ScaledGradient(torch.autograd.Function):
    """The backward hook of the release on a modality's response."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.scale = scale
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.scale, None


class AGMRelease(Release):
    """Responses from zeroed inputs; the factor compares with the mean before the step, and scales the response."""

    def __init__(self, modalities, alpha):
        super().__init__(modalities)
        self.alpha, self.mean, self.iteration = alpha, dict.fromkeys(modalities, 0.0), 0

    def responses(self, batch):
        coalitions, weights = exact_plan(len(self.modalities))
        logits = []
        for members in coalitions.tolist():
            present = dict(zip(self.modalities, members, strict=True))
            inputs = {m: x if present[m] else torch.zeros_like(x) for m, x in batch.inputs.items()}
            empty = torch.zeros(len(batch.target), 4)
            logits.append(self.fused(self.encode(replace(batch, inputs=inputs))) if any(members) else empty)
        return dict(zip(self.modalities, torch.einsum("mc,cbt->mbt", weights, torch.stack(logits)), strict=True))

    def step(self, batch):
        self.optimizer.zero_grad()
        count = len(self.modalities)
        response = self.responses(batch)
        loss = {m: F.cross_entropy(r, batch.target).item() for m, r in response.items()}

        def ratio(loss):
            average = sum(loss.values()) / count
            return {m: math.exp(count / (count - 1) * (average - x)) for m, x in loss.items()}

        now, usual = ratio(loss), ratio(self.mean)
        self.factor = {m: math.exp(self.alpha * min(usual[m] - now[m], 10)) for m in self.modalities}
        self.iteration += 1
        i = self.iteration
        self.mean = {m: self.mean[m] * (i - 1) / i + loss[m] / i for m in self.modalities}
        head = list(self.model.head.parameters())
        plain = torch.autograd.grad(F.cross_entropy(sum(response.values()), batch.target), head, retain_graph=True)
        out = sum(ScaledGradient.apply(response[m], self.factor[m]) for m in self.modalities)
        F.cross_entropy(out, batch.target).backward()
        # The release scales the head's slice of a modality as well; ours leaves to the head what modalities share.
        scales = torch.tensor(list(self.factor.values())).repeat_interleave(5)
        torch.testing.assert_close(self.model.head.weight.grad, scales * plain[0], rtol=1e-4, atol=1e-6)
        for parameter, gradient in zip(head, plain, strict=True):
            parameter.grad = gradient
        self.optimizer.step()


@several
@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_agm(modalities, alpha):
    """Meant difference: the head keeps its own gradient; here the factor is for what only one modality trains."""
    ours, theirs = Ours("agm", modalities, alpha=alpha), AGMRelease(modalities, alpha)
    factors = []
    for number, batch in batches(modalities, 12, 16):
        ours.step(batch, number)
        theirs.step(batch)
        assert ours.strategy.factor.tolist() == pytest.approx(list(theirs.factor.values()), rel=1e-3)
        factors += theirs.factor.values()
    expect_same_weights(ours, theirs, rtol=1e-3, atol=1e-5)
    assert min(factors) < 0.98
    assert max(factors) > 1.02


def test_balancebenchmarks_agm_boosts_the_leader():
    """Its ratio grows with the loss, not with minus the loss: the lower loss gets the larger factor."""

    def ratio(scores):
        return [math.exp(2 * (s - sum(scores) / 2)) for s in scores]

    def factors(scores, means, sign):
        now, usual = ratio([sign * s for s in scores]), ratio([sign * s for s in means])
        return [math.exp(0.1 * min(u - n, 7)) for u, n in zip(usual, now, strict=True)]

    loss, mean = [0.5, 1.5], [1.0, 1.0]  # the first now leads, and is not used to
    paper, copied = factors(loss, mean, -1), factors(loss, mean, +1)
    assert paper[0] < 1 < paper[1]
    assert copied[0] > 1 > copied[1]


# DGS, G22-web/DGS, which cannot be run: what its text says


@pytest.mark.parametrize("players", [2, 3])
def test_dgs_shapley_values_are_the_releases_but_for_the_empty_set(players):
    """It writes out 1/3, 1/6, 1/6, 1/3 for three, and takes nobody's value as 0; ours uses nobody's value."""
    coalitions, weights = exact_plan(players)
    random = torch.Generator().manual_seed(0)
    values = torch.rand(len(coalitions), generator=random)
    v = {
        tuple(i for i, member in enumerate(c) if member): x.item()
        for c, x in zip(coalitions.tolist(), values, strict=True)
    }
    if players == 2:
        released = [(v[0, 1] - v[1,] + v[0,]) / 2, (v[0, 1] - v[0,] + v[1,]) / 2]
    else:
        released = [
            (v[0, 1, 2] - v[1, 2]) / 3 + (v[0, 1] - v[1,]) / 6 + (v[0, 2] - v[2,]) / 6 + v[0,] / 3,
            (v[0, 1, 2] - v[0, 2]) / 3 + (v[0, 1] - v[0,]) / 6 + (v[1, 2] - v[2,]) / 6 + v[1,] / 3,
            (v[0, 1, 2] - v[0, 1]) / 3 + (v[0, 2] - v[0,]) / 6 + (v[1, 2] - v[1,]) / 6 + v[2,] / 3,
        ]
    assert (weights @ values).tolist() == pytest.approx([x - v[()] / players for x in released], abs=1e-6)


def test_dgs_release_never_damps_by_features_and_always_stops_by_probabilities():
    """Its score sums a softmax over 3,072 features at the class number, so k = 1; over 6 classes k would be about 0."""

    def factor(phi, target, alpha=0.6):
        score = torch.relu(sum(torch.softmax(phi[i], 0)[y] for i, y in enumerate(target.tolist())))
        return 1 - torch.tanh(alpha * score).item() if score >= 1 else 1.0

    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        target = torch.randint(6, (50,), generator=random)
        features, classes = torch.randn(50, 3072, generator=random), torch.randn(50, 6, generator=random)
        assert factor(features, target) == 1
        assert factor(classes, target) < 1e-3
    ours = Ours("dgs", MODALITIES, every=1)
    graded = []
    for number, batch in batches(MODALITIES, 6, 16):
        ours.step(batch, number)
        share = ours.strategy.share.tolist()
        expected = [1 - math.tanh(0.6 * max(3 * x - 1, 0)) for x in share]
        assert ours.strategy.factor.tolist() == pytest.approx(expected, rel=1e-4)
        graded += expected
    assert any(0.05 < k < 0.95 for k in graded)
