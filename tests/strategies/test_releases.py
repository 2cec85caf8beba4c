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
from cggm_med.strategies.gblending import blending_weights
from cggm_med.strategies.inforeg import regulation
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


class ReleaseWithHeads(Release):
    """The same with a linear classifier on each modality's features, which begins like ours."""

    def __init__(self, modalities, heads, optimizer=SGD):
        super().__init__(modalities, optimizer)
        self.heads = nn.ModuleDict({m: nn.Linear(5, 4) for m in modalities})
        for m in modalities:
            self.heads[m].load_state_dict(heads.heads[m].last.state_dict())
        self.head_optimizer = self.new_optimizer(self.heads.parameters())

    def own_losses(self, features, target):
        return {m: F.cross_entropy(self.heads[m](h), target) for m, h in features.items()}

    def zero_grad(self):
        self.optimizer.zero_grad()
        self.head_optimizer.zero_grad()

    def update(self):
        self.optimizer.step()
        self.head_optimizer.step()


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


class MMParetoRelease(ReleaseWithHeads):
    """The two gradients of each encoder, combined by the min-norm rule, and its length restored tensor by tensor."""

    gamma = 1.5

    def step(self, batch):
        self.zero_grad()
        features = self.encode(batch)
        losses = {"both": F.cross_entropy(self.fused(features), batch.target)}
        losses |= self.own_losses(features, batch.target)
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
        self.update()

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


# PMR, fanyunfeng-bit/Modal-Imbalance-PMR, main_Prototype_grad.py


class PMRRelease(Release):
    """Whoever is behind by its prototypes is pulled towards them with all of alpha.

    Meant differences: scores are running means up to the step before, or with ``of_batch`` those of the batch as in the
    release; prototypes are means of the features that training saw, in the first epoch up to the step before, and in
    the release of a tenth of the batches, in evaluation mode; for three, the mean of the others; the release has two.
    """

    def __init__(self, modalities, optimizer=SGD, alpha=1.0, momentum=0.2, of_batch=False):
        super().__init__(modalities, optimizer)
        self.alpha, self.momentum, self.of_batch = alpha, momentum, of_batch
        self.prototypes, self.mean, self.compared = {}, dict.fromkeys(modalities, 0.0), 0
        self.seen, self.pulled = [], set()

    def epoch_means(self):
        labels = torch.cat([label for _, label in self.seen])
        features = {m: torch.cat([h[m] for h, _ in self.seen]) for m in self.modalities}
        return {m: torch.stack([h[labels == c].mean(0) for c in range(4)]) for m, h in features.items()}

    def step(self, batch, starts_epoch):
        if starts_epoch and self.seen:
            new, old, keep = self.epoch_means(), self.prototypes, self.momentum
            self.prototypes = {m: (1 - keep) * x + keep * old[m] if old else x for m, x in new.items()}
            self.seen = []
        self.optimizer.zero_grad()
        features, label = self.encode(batch), batch.target
        loss = F.cross_entropy(self.fused(features), label)
        if known := self.prototypes or (self.seen and self.epoch_means()):
            near = {m: -torch.stack([(h - c).square().sum(1).sqrt() for c in known[m]], 1) for m, h in features.items()}
            batch_score = {m: x.softmax(1)[torch.arange(len(label)), label].mean().item() for m, x in near.items()}
            means = {m: x / (1 - 0.9**self.compared) for m, x in self.mean.items()} if self.compared else {}
            score = batch_score if self.of_batch else means
            for m in score:
                others = [score[n] for n in self.modalities if n != m]
                if score[m] < sum(others) / len(others):
                    loss = loss + self.alpha * F.cross_entropy(near[m], label)
                    self.pulled.add(m)
            self.mean = {m: 0.9 * x + 0.1 * batch_score[m] for m, x in self.mean.items()}
            self.compared += 1
        loss.backward()
        self.optimizer.step()
        self.seen.append(({m: h.detach() for m, h in features.items()}, label))


@several
@pytest.mark.parametrize("of_batch", [False, True], ids=["while weights move", "on one batch while they stand still"])
def test_pmr(modalities, of_batch):
    """Three epochs of five steps. Where nothing moves, the mean of the scores so far is the batch's, as in the release.

    Ours weighs by what it has compared before, so from the third step on.
    """
    config = replace(SGD, lr=1e-30, weight_decay=0) if of_batch else SGD
    ours = Ours("pmr", modalities, config, form="released")
    theirs = PMRRelease(modalities, config, of_batch=of_batch)
    given = list(batches(modalities, 15, 32))
    for number, batch in given:
        batch = given[0][1] if of_batch else batch
        ours.step(batch, number)
        theirs.step(batch, starts_epoch=number % 5 == 0)
        for m in modalities if number >= 2 else ():
            for mine, its in zip(ours.model.modality_gradients(m), theirs.grads(m), strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-5)
    expect_same_weights(ours, theirs, rtol=1e-3, atol=1e-5)
    assert theirs.pulled


# G-Blending, facebookresearch/VMZ (weights that somebody measured), and GeWu-Lab/BalanceBenchmark (how they are)


class GBlendingRelease(ReleaseWithHeads):
    """Fixed weights of the fused loss and of each modality's own, which a classifier on its features predicts."""

    def step(self, batch, weights):
        self.zero_grad()
        features = self.encode(batch)
        losses = [F.cross_entropy(self.fused(features), batch.target)]
        losses += self.own_losses(features, batch.target).values()
        sum(w * x for w, x in zip(weights, losses, strict=True)).backward()
        self.update()


@several
def test_gblending_trains_by_its_weights(modalities):
    """Those of the tutorial for Kinetics and R3D, fused, audio, visual; for three, any."""
    weights = {2: [0.356, 0.014, 0.630], 3: [0.4, 0.1, 0.2, 0.3]}[len(modalities)]
    ours = Ours("gblending", modalities)
    ours.strategy.weight.copy_(torch.tensor(weights))
    theirs = GBlendingRelease(modalities, ours.strategy.heads)
    for number, batch in batches(modalities, 12, 16):
        ours.step(batch, number)
        theirs.step(batch, weights)
    expect_same_weights(ours, theirs)
    for m in modalities:
        torch.testing.assert_close(ours.strategy.heads.heads[m].last.weight, theirs.heads[m].weight)


def reimplemented_weights(train, validation):
    """BalanceBenchmark's, given the losses before and after: the magnitude of G / O^2."""
    pairs = zip(train, validation, strict=True)
    rates = [abs((v1 - v0) / ((v1 - t1) - (v0 - t0)) ** 2) for (t0, t1), (v0, v1) in pairs]
    return [rate / sum(rates) for rate in rates]


@several
def test_gblending_measures_as_the_re_implementation_where_every_loss_falls(modalities):
    """Over four super-epochs of two. Meant difference: there, a loss that rises gets weight for rising.

    Others: it trains a copy for each loss, with zeros for the other modalities, and sums losses over batches, of which
    training has more than validation; no loss keeps a share of an equal weight there (``floor``).
    """
    random = torch.Generator().manual_seed(len(modalities))
    names = ("task", *modalities)
    ours = Ours("gblending", modalities, super_epoch=2, floor=0.0)
    history = {"train": [torch.ones(len(names))], "validation": [torch.ones(len(names))]}
    for epoch in range(0, 8, 2):
        for split, least in (("train", 0.2), ("validation", 0.05)):
            history[split].append(history[split][-1] - least * (0.2 + torch.rand(len(names), generator=random)))
        measured = {split: dict(zip(names, losses[-1].unbind(), strict=True)) for split, losses in history.items()}
        ours.strategy.start_epoch(ours.model, epoch, measured.__getitem__)
        ours.strategy.start_epoch(ours.model, epoch + 1, {}.__getitem__)  # within a super-epoch, nothing is measured
        if epoch:
            pairs = (torch.stack(losses[-2:], dim=1).tolist() for losses in history.values())
            assert ours.strategy.weight.tolist() == pytest.approx(reimplemented_weights(*pairs), rel=1e-3)
    assert reimplemented_weights([[1, 0.9], [1, 0.5]], [[1, 1.1], [1, 0.9]])[0] == pytest.approx(0.8)
    assert blending_weights(torch.tensor([[1, 1], [0.9, 0.5]]), torch.tensor([[1, 1], [1.1, 0.9]])).tolist() == [0, 1]


# InfoReg, GeWu-Lab/InfoReg_CVPR2025, main.py


class InfoRegRelease(ReleaseWithHeads):
    """Whoever leads is pulled back to the start of the epoch while its Fisher trace grows.

    Meant differences: each modality has its own window, the release that of audio for both; one beta, there 0.95 for
    audio and 0.1 for visual; own losses by classifier heads, there by slices of the head; the trace of all parameters
    and before the pull, there of convolutions and linear layers with it. Scores are means over the batch, there sums:
    with one sample they are the same.
    """

    def __init__(self, modalities, heads, optimizer, threshold, beta=0.95):
        super().__init__(modalities, heads, optimizer)
        self.beta, self.threshold = beta, threshold
        self.traces, self.held = {m: [0.0] * 10 for m in modalities}, []

    def growth(self, m):
        history = self.traces[m]
        now, before = sum(history[-10:]) / 10, sum(history[-11:-1]) / 10
        return (now - before) / now if len(history) > 10 else 1

    def step(self, batch, starts_epoch):
        if starts_epoch:
            self.start = {m: [p.detach().clone() for p in self.model.encoders[m].parameters()] for m in self.modalities}
            self.now = {m: self.growth(m) for m in self.modalities}
            for history in self.traces.values():
                history.append(0.0)
        self.zero_grad()
        features, label, count = self.encode(batch), batch.target, len(self.modalities)
        (F.cross_entropy(self.fused(features), label) + sum(self.own_losses(features, label).values())).backward()
        share = {m: features[m] @ w.t() + self.model.head.bias / count for m, w in self.slices().items()}
        score = {m: sum(x.softmax(1)[i][y] for i, y in enumerate(label)).item() for m, x in share.items()}
        for m in self.modalities:
            self.traces[m][-1] += sum(g.square().sum().item() for g in self.grads(m))
            gap = score[m] - sum(s for n, s in score.items() if n != m) / (count - 1)
            held = gap > 0 and self.now[m] > self.threshold
            self.held.append(held)
            for p, start in zip(self.model.encoders[m].parameters(), self.start[m], strict=True):
                p.grad += self.beta * math.exp(math.tanh(gap)) * (p.detach() - start) if held else 0
        self.update()


@several
@pytest.mark.parametrize("threshold", [0.05, 0.4], ids=["K of the release", "K that is met on the way"])
def test_inforeg(modalities, threshold):
    """Four epochs of five steps."""
    config = replace(SGD, lr=0.01)  # one sample a step
    ours = Ours("inforeg", modalities, config, threshold=threshold)
    theirs = InfoRegRelease(modalities, ours.strategy.heads, config, threshold)
    for number, batch in batches(modalities, 20, 1):
        ours.step(batch, number)
        theirs.step(batch, starts_epoch=number % 5 == 0)
    expect_same_weights(ours, theirs, rtol=1e-3, atol=1e-5)
    growth = ours.strategy.diagnostics()["information_growth"].tolist()
    assert growth == pytest.approx(list(theirs.now.values()), rel=1e-3)
    assert set(theirs.held) == {True, False}
    assert (min(growth) < threshold) == (threshold == 0.4)


def test_inforeg_release_holds_nearly_any_leader_with_all_its_strength():
    """It sums the gap over a batch of 64: a lead of 0.04 is 2.56 there, whose tanh is 0.988."""
    gap = 0.04
    released, mean = (0.95 * math.exp(math.tanh(n * gap)) for n in (64, 1))
    assert released > 0.98 * 0.95 * math.e
    ours = regulation(torch.tensor([0.5 + gap, 0.5]), torch.ones(2), beta=0.95, threshold=0.05)
    assert ours.tolist() == pytest.approx([mean, 0])
    assert mean < 1


# DGL, shicaiwei123/ICCV2025-GDL, main_dgl.py


class DGLRelease(ReleaseWithHeads):
    """Two backward passes, the first of which spares the fusion.

    Meant difference: a modality predicts through its head, in the release through the fusion with zeros for the others.
    """

    alpha = 4.0

    def step(self, batch):
        self.zero_grad()
        features = self.encode(batch)
        (self.alpha * sum(self.own_losses(features, batch.target).values())).backward()
        for parameter in self.model.head.parameters():
            parameter.grad = None
        F.cross_entropy(self.fused({m: h.detach() for m, h in features.items()}), batch.target).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 40)
        for head in self.heads.parameters():  # there are none in the release; ours learn at weight 1
            head.grad /= self.alpha
        self.update()


@several
def test_dgl(modalities):
    ours = Ours("dgl", modalities)
    theirs = DGLRelease(modalities, ours.strategy.heads)
    for number, batch in batches(modalities, 12, 16):
        ours.step(batch, number, clip=40)
        theirs.step(batch)
    expect_same_weights(ours, theirs)


# UMT, of whose authors no release was found: GeWu-Lab/BalanceBenchmark, UMT_trainer.py


class UMTRelease(Release):
    """Ten times the squared distance to what the teachers' encoders say, mean over samples and features."""

    def __init__(self, modalities, teacher):
        super().__init__(modalities)
        self.teacher = teacher

    def step(self, batch):
        self.optimizer.zero_grad()
        features = self.encode(batch)
        loss = F.cross_entropy(self.fused(features), batch.target)
        for m, h in features.items():
            with torch.no_grad():
                taught = self.teacher.encoders[m](batch.inputs[m])
            loss += 10 * F.mse_loss(taught, h)
        loss.backward()
        self.optimizer.step()


@several
def test_umt(modalities):
    """Meant difference: teachers are in evaluation mode, there in training mode."""
    ours = Ours("umt", modalities)
    (teacher,) = ours.strategy._teacher
    theirs = UMTRelease(modalities, teacher)
    for number, batch in batches(modalities, 12, 16):
        ours.step(batch, number)
        theirs.step(batch)
    expect_same_weights(ours, theirs)


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
