"""PMR: prototypes, coefficients and losses by hand, and against the paper's equations."""

import math

import pytest
import torch

from cggm_med import ConfigError
from cggm_med.config import OptimConfig
from cggm_med.objectives.targets import IGNORED, UNKNOWN
from cggm_med.optim.optimizer import make_optimizer
from cggm_med.strategies.parts.prototypes import Prototypes, class_weights, position_features, weighted_sums
from cggm_med.strategies.pmr import PMRConfig, pmr_coefficients
from cggm_med.testing.problems import CLASSIFICATION, CPU, SEGMENTATION, lacking, make, one_step, set_up
from cggm_med.types import Features

# An update that rounds to none.
STILL = OptimConfig(name="sgd", lr=1e-30, momentum=0, weight_decay=0)
YES = torch.tensor(True)


# Coefficients


@pytest.mark.parametrize(
    ("score", "beta", "gamma"),
    [
        ([0.6, 0.4], [0, 0.5], [0.5, 0]),
        ([0.2, 0.8], [1, 0], [0, 1]),  # 3, cut to 1
        ([0.6, 0.3, 0.3], [0, 0.5, 0.5], [1, 0, 0]),
        ([0.4, 0.4, 0.4], [0, 0, 0], [0, 0, 0]),
        ([0.7], [0], [0]),
    ],
)
def test_coefficients_by_hand(score, beta, gamma):
    behind, ahead = pmr_coefficients(torch.tensor(score), "paper")
    torch.testing.assert_close(behind, torch.tensor(beta, dtype=torch.float), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ahead, torch.tensor(gamma, dtype=torch.float), rtol=1e-4, atol=1e-5)


def test_coefficients_are_those_of_the_paper_for_two_modalities():
    """Equation 11 with rho = s_0 / s_1: beta = clip(1 / rho - 1) pulls modality 0, gamma = clip(rho - 1) modality 1.

    Equation 13 gives the entropy of modality 0 the factor gamma, and that of modality 1 beta.
    """
    for s0, s1 in torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).tolist():
        rho = s0 / s1
        beta, gamma = (min(max(x, 0), 1) for x in (1 / rho - 1, rho - 1))
        behind, ahead = pmr_coefficients(torch.tensor([s0, s1]), "paper")
        assert behind.tolist() == pytest.approx([beta, gamma], abs=1e-3)
        assert ahead.tolist() == pytest.approx([gamma, beta], abs=1e-3)


def test_the_released_form_pulls_whoever_is_behind_with_all_its_weight():
    behind, ahead = pmr_coefficients(torch.tensor([0.50, 0.49, 0.9]), "released")
    assert behind.tolist() == [1, 1, 0]
    assert ahead.tolist() == [0, 0, 0]
    assert pmr_coefficients(torch.tensor([0.5, 0.5]), "released")[0].tolist() == [0, 0]


# Classes


def test_each_sample_weighs_1_and_what_is_not_known_nothing():
    random = torch.Generator().manual_seed(0)
    regions = (torch.rand(3, 2, 4, 4, 4, generator=random) > 0.7).float()
    partial = regions.clone()
    partial[0, 0] = UNKNOWN
    partial[1] = UNKNOWN
    empty = torch.zeros_like(regions)
    utterances = torch.tensor([[0, 1, IGNORED], [2, 2, 2], [IGNORED] * 3])
    numbers = torch.randint(3, (3, 1, 4, 4, 4), generator=random)
    voxels = torch.zeros(3, 2, 4, 4, 4)
    cases = [
        (torch.zeros(3, 5), torch.tensor([0, 4, 2]), (), [1, 1, 1]),
        (torch.zeros(3, 4, 3), utterances, (), [1, 1, 0]),
        (torch.zeros(3, 1), torch.tensor([[-0.5], [0.0], [2.0]]), (), [1, 1, 1]),
        (voxels, regions, (2, 2, 2), [1, 1, 1]),
        (voxels, partial, (2, 2, 2), [1, 0, 1]),
        (voxels, empty, (2, 2, 2), [1, 1, 1]),
        (torch.zeros(3, 3, 4, 4, 4), numbers, (4, 4, 4), [1, 1, 1]),
    ]
    for logits, target, grid, expected in cases:
        weights = class_weights(logits, target, grid)
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum((1, 2, 3)), torch.tensor(expected, dtype=torch.float))


def test_a_region_of_one_voxel_counts_as_much_as_its_outside():
    """Four voxels, one inside: it has half of the weight, and each of the others a sixth."""
    target = torch.tensor([0.0, 0, 0, 1]).view(1, 1, 4, 1, 1)
    weights = class_weights(torch.zeros(1, 1, 4, 1, 1), target, (4, 1, 1))
    torch.testing.assert_close(weights[0, 0], torch.tensor([[1 / 6, 1 / 6, 1 / 6, 0], [0, 0, 0, 0.5]]))


def test_a_coarse_cell_belongs_to_a_region_as_far_as_its_voxels_do():
    """Two cells of two voxels: the region has a quarter of its weight in the first and three quarters in the second."""
    target = torch.tensor([0.0, 0.5, 0.5, 1]).view(1, 1, 4, 1, 1)
    inside = class_weights(torch.zeros(1, 1, 4, 1, 1), target, (2, 1, 1))[0, 0, 1]
    torch.testing.assert_close(inside, torch.tensor([0.125, 0.375]))


def test_a_sequence_with_one_class_is_averaged_over_what_is_valid():
    maps = torch.tensor([[[1.0, 3.0, 99.0]], [[2.0, 4.0, 6.0]]])
    valid = torch.tensor([[True, True, False], [True, True, True]])
    assert position_features(Features((maps,), valid=valid), 1).flatten().tolist() == [2, 4]
    assert position_features(Features((maps,), valid=valid, rows=torch.tensor([1])), 1).flatten().tolist() == [4]
    assert position_features(Features((maps,), valid=valid), 3).shape == (2, 1, 3)


# Prototypes


def prototypes_at(*means):
    prototypes = Prototypes()
    means = torch.tensor([means])
    prototypes.add(means, torch.ones(means.shape[:2]), YES)
    return prototypes


def test_nearness_by_hand():
    """A feature at 0.25 between prototypes at 0 and 1: p = 1 / (1 + exp(0.25 - 0.75)) = 0.6225."""
    near = prototypes_at([0.0], [1.0]).nearness(torch.tensor([[[0.25]]]), torch.tensor([[[[1.0], [0.0]]]]))
    p = 1 / (1 + math.exp(-0.5))
    assert near.loss.item() == pytest.approx(-math.log(p))
    assert near.entropy.item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert near.sums.tolist() == [pytest.approx([p, 1, 1])]


def test_a_class_without_a_prototype_is_no_alternative_and_does_not_count():
    prototypes = Prototypes()
    prototypes.add(torch.tensor([[[0.0], [5.0], [1.0]]]), torch.tensor([[1.0, 0, 1]]), YES)
    features = torch.tensor([[[0.25]], [[0.0]]]).requires_grad_()
    weights = torch.zeros(2, 1, 3, 1)
    weights[0, 0, 0] = weights[1, 0, 1] = 1
    near = prototypes.nearness(features, weights)
    assert near.loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)) / 2)
    assert near.sums[0, 1].item() == 1
    (near.loss + near.entropy).backward()
    assert torch.isfinite(features.grad).all()
    assert features.grad[1].item() == 0


def test_the_epochs_enter_by_momentum_and_the_first_mean_stands_for_itself():
    prototypes = Prototypes()
    prototypes.end_epoch(0.2)
    one = torch.ones(1, 1)
    prototypes.add(torch.tensor([[[2.0]]]), one, YES)
    prototypes.add(torch.tensor([[[8.0]]]), one, torch.tensor(False))
    assert prototypes.current()[0].item() == 2
    prototypes.add(torch.tensor([[[4.0]]]), one, YES)
    assert prototypes.current()[0].item() == 3
    prototypes.end_epoch(0.2)
    prototypes.add(torch.tensor([[[8.0]]]), one, YES)
    assert prototypes.current()[0].item() == 3
    prototypes.end_epoch(0.2)
    assert prototypes.current()[0].item() == pytest.approx(0.2 * 3 + 0.8 * 8)
    prototypes.end_epoch(0.2)  # nothing new
    assert prototypes.current()[0].item() == pytest.approx(7)


def test_a_saved_state_brings_its_shapes():
    prototypes, other = prototypes_at([0.0, 1.0], [1.0, 2.0]), Prototypes()
    other.load_state_dict(prototypes.state_dict())
    assert torch.equal(other.current()[0], prototypes.current()[0])
    fresh = prototypes_at([3.0])
    fresh.load_state_dict(Prototypes().state_dict())
    assert not fresh.known


# The authors' release: fanyunfeng-bit/Modal-Imbalance-PMR at 3615e48, main_Prototype_grad.py


def released_prototypes(batches, momentum, before):
    """One epoch: the mean of each class's features, and from the second epoch on the momentum."""
    features, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    new = torch.stack([features[labels == c].mean(0) for c in range(4)])
    return new if before is None else (1 - momentum) * new + momentum * before


def test_prototypes_are_those_of_the_release_where_epochs_differ():
    model = CLASSIFICATION.model()
    strategy = set_up(make("pmr", momentum=0.2), model, 2, CLASSIFICATION)
    optimizer = make_optimizer(model, strategy, STILL, CPU)
    expected: dict = dict.fromkeys(model.modalities)
    for epoch in range(3):
        batches = [CLASSIFICATION.batch(2 * epoch + i, samples=32) for i in range(2)]
        for i, batch in enumerate(batches):
            one_step(model, strategy, optimizer, batch, 2 * epoch + i, CLASSIFICATION)
        with torch.no_grad():
            for m in model.modalities:
                seen = [(model.encode(b.inputs)[m].maps[0], b.target) for b in batches]
                expected[m] = released_prototypes(seen, 0.2, expected[m])
    strategy.start_epoch(model, 3, lambda split: {})
    for m, prototypes in expected.items():
        torch.testing.assert_close(strategy.prototypes[m].current()[0][0], prototypes, rtol=1e-4, atol=1e-5)


# The strategy in a step


def after(steps, problem, batch=None, **settings):
    model = problem.model()
    strategy = set_up(make("pmr", **settings), model, problem=problem)
    optimizer = make_optimizer(model, strategy, STILL, CPU)
    for number in range(steps):
        losses = one_step(model, strategy, optimizer, batch or problem.batch(0, samples=16), number, problem)
    return model, strategy, losses


@pytest.mark.parametrize("problem", [CLASSIFICATION, SEGMENTATION], ids=["classes", "voxels"])
def test_the_terms_are_those_of_the_paper_from_the_third_step_on(problem):
    """The first step finds the prototypes, the second compares them, the third weighs by what was found."""
    model, _, losses = after(3, problem, alpha=0.7, mu=0.3, early=1.0)
    batch = problem.batch(0, samples=16)
    features = model.encode(batch.inputs)
    (outputs,) = model.predict([features])
    near, score = [], []
    for m in model.modalities:
        grid = features[m].maps[-1].shape[2:]
        weights = class_weights(outputs.logits, batch.target, grid)
        own = position_features(features[m], weights.shape[-1])
        total, weight = weighted_sums(own, weights)
        prototypes = Prototypes()
        prototypes.add(total, weight, YES)
        near.append(prototypes.nearness(own, weights))
        score.append(near[-1].sums[0, 0] / near[-1].sums[0, 1])
    behind, ahead = pmr_coefficients(torch.stack(score), "paper")
    assert behind.max() > 0
    expected = 0.7 * sum(b * n.loss for b, n in zip(behind, near, strict=True))
    torch.testing.assert_close(losses["prototypes"], expected.detach(), rtol=1e-4, atol=1e-6)
    expected = -0.3 * sum(a * n.entropy for a, n in zip(ahead, near, strict=True))
    torch.testing.assert_close(losses["entropy"], expected.detach(), rtol=1e-4, atol=1e-6)


def test_the_first_two_steps_have_no_pull_and_the_entropy_ends_early():
    assert "prototypes" not in after(1, CLASSIFICATION)[2]
    assert after(2, CLASSIFICATION)[2]["prototypes"].item() == 0
    late = after(3, CLASSIFICATION, early=0.02)[2]  # steps 0 and 1 of 100
    assert "prototypes" in late
    assert "entropy" not in late
    assert "prototypes" not in after(3, CLASSIFICATION, end=0.02)[2]


def test_samples_that_lack_a_modality_are_in_no_prototype_of_it():
    whole = CLASSIFICATION.batch(0, samples=16)
    junk = lacking(whole, {"t1": range(8)}, float("nan"))
    model, strategy, losses = after(3, CLASSIFICATION, junk)
    with torch.no_grad():
        own = model.encode(whole.inputs)["t1"].maps[0][8:]
    labels = whole.target[8:]
    found, has_one = strategy.prototypes["t1"].current()
    for c in range(4):
        assert has_one[0, c] == (labels == c).any()
        if has_one[0, c]:
            torch.testing.assert_close(found[0, c], own[labels == c].mean(0), rtol=1e-4, atol=1e-5)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_pull_draws_a_modality_towards_its_prototypes():
    """A step along the gradient of the pull alone lowers it."""
    model, strategy, _ = after(3, CLASSIFICATION)
    batch = CLASSIFICATION.batch(0, samples=16)

    def loss():
        own = position_features(model.encode(batch.inputs)["t1"], 1)
        return strategy.prototypes["t1"].nearness(own, class_weights(torch.zeros(16, 4), batch.target, ())).loss

    before = loss()
    before.backward()
    with torch.no_grad():
        for parameter in model.modality_parameters("t1"):
            parameter -= 0.1 * parameter.grad
    assert loss() < before


@pytest.mark.parametrize(
    ("setting", "value"), [("alpha", -1.0), ("mu", -0.1), ("momentum", 1.0), ("early", 1.5), ("end", -0.1)]
)
def test_impossible_settings_are_named(setting, value):
    with pytest.raises(ConfigError, match=rf"strategy\.{setting}"):
        PMRConfig("pmr", **{setting: value})
