"""Linear read-outs of vectors and voxels: what they must find, what they must not see, and brute force beside them."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from cggm_med.evaluation.probe.readouts import Rows, class_probabilities, fit_readout, pooled
from cggm_med.evaluation.probe.voxels import (
    NEVER,
    THRESHOLDS,
    VoxelReadout,
    dice_by_threshold,
    draw_voxels,
    fit_voxels,
    voxel_features,
)
from cggm_med.metrics.overlap import dice
from cggm_med.types import Features


def rows(n, channels=20, seed=0, noise=0.0):
    """Three classes by the largest of the first three channels."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, channels))
    y = (x[:, :3] + noise * random.normal(size=(n, 3))).argmax(axis=1)
    return Rows(x, y, np.arange(n) % 6)


def test_a_vector_is_taken_as_it_is():
    x = torch.randn(4, 3)
    assert np.array_equal(pooled(Features((torch.zeros(4, 9), x)), None), x.double().numpy())


def test_a_sequence_is_averaged_over_valid_time_only():
    x = torch.tensor([[[1.0, 2.0, 6.0]], [[5.0, float("nan"), 7.0]], [[3.0, 3.0, 3.0]]])
    valid = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    assert pooled(Features((x,), valid=valid), None).tolist() == [[3.0], [5.0], [0.0]]
    assert pooled(Features((x[:1],)), None).tolist() == [[3.0]]
    assert pooled(Features((x,), valid=valid), valid).tolist() == [[1.0], [2.0], [6.0], [5.0]]


def test_volumes_are_averaged_over_their_grid():
    x = torch.arange(16.0).view(1, 2, 2, 2, 2)
    assert pooled(Features((x,)), None).tolist() == [[3.5, 11.5]]


def test_what_is_linear_is_found_and_noise_is_not():
    test = rows(500, seed=2)
    readout, _ = fit_readout(rows(600), rows(200, seed=1), classes=True)
    assert (readout.predict(test.x) == test.y).mean() > 0.95
    random = np.random.default_rng(3).integers(3, size=600)
    readout, _ = fit_readout(Rows(rows(600).x, random, np.zeros(600, int)), rows(200, seed=1), classes=True)
    assert (readout.predict(test.x) == test.y).mean() < 0.45


def test_scale_and_shift_of_the_features_change_nothing():
    """Standardised, so that a network's scale is not taken for its quality."""
    train, choose, test = rows(300, noise=0.5), rows(100, seed=1, noise=0.5), rows(200, seed=2)
    factors = 10.0 ** np.arange(-5, 15, dtype=float)

    def moved(r):
        return Rows(factors * r.x + 7, r.y, r.groups)

    plain, strength = fit_readout(train, choose, classes=True)
    other, same = fit_readout(moved(train), moved(choose), classes=True)
    assert strength == same
    assert (plain.predict(test.x) == other.predict(moved(test).x)).mean() > 0.99


def test_regularisation_is_chosen_on_validation_and_the_rest_fitted_to_training_alone():
    train, choose = rows(60, channels=50, noise=1.0), rows(200, channels=50, seed=1)
    readout, strength = fit_readout(train, choose, classes=True)
    scaler = StandardScaler().fit(train.x)
    accuracies = {}
    for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0):
        by_hand = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(train.x), train.y)
        accuracies[c] = by_hand.score(scaler.transform(choose.x), choose.y)
    best = max(accuracies.values())
    assert len(set(accuracies.values())) > 1
    assert strength == min(c for c, accuracy in accuracies.items() if accuracy == best)
    assert readout.score(choose.x, choose.y) == best


def test_without_validation_folds_divide_no_group():
    """Features tell the group and nothing else: known groups are told by heart, for a new one the mean is best."""
    groups = np.repeat(np.arange(10), 20)
    x, y = np.eye(10)[groups], np.random.default_rng(0).normal(size=10)[groups]
    _, strength = fit_readout(Rows(x, y, groups), None, classes=False)
    _, divided = fit_readout(Rows(x, y, np.random.default_rng(1).permutation(200)), None, classes=False)
    assert (strength, divided) == (1e5, 0.1)
    _, none = fit_readout(Rows(x, y, np.zeros(200, int)), None, classes=False)
    assert none is None


def test_a_line_is_found():
    x = np.random.default_rng(0).normal(size=(400, 5))
    y = x @ [1.0, -2.0, 0.0, 0.0, 3.0] + 4
    readout, _ = fit_readout(
        Rows(x[:200], y[:200], np.arange(200)), Rows(x[200:300], y[200:300], np.zeros(100)), classes=False
    )
    assert np.abs(readout.predict(x[300:]) - y[300:]).max() < 0.01


def test_classes_that_were_not_seen_have_probability_0():
    train = Rows(np.array([[0.0], [1.0], [0.1], [0.9]]), np.array([1, 3, 1, 3]), np.arange(4))
    readout, _ = fit_readout(train, None, classes=True)
    found = class_probabilities(readout, np.array([[0.0], [1.0]]), 5)
    assert (found[:, [0, 2, 4]] == 0).all()
    assert found.sum(axis=1) == pytest.approx(1)
    assert found.argmax(axis=1).tolist() == [1, 3]


@pytest.fixture
def pyramid():
    return tuple(torch.randn(1, c, n, n, n) for c, n in ((2, 8), (3, 4), (4, 2)))


def test_voxel_features_are_what_the_readout_reads(pyramid):
    """A read-out that copies each channel in turn gives the features, whatever way it interpolates."""
    voxels = np.argwhere(np.ones((4, 4, 4)))
    eye = torch.eye(9)[:, :, None, None, None].split([2, 3, 4], dim=1)
    copied = VoxelReadout(tuple(eye), torch.zeros(9))(pyramid)
    assert copied.shape == (1, 9, 4, 4, 4)
    np.testing.assert_allclose(voxel_features(pyramid, voxels), copied[0].flatten(1).T.numpy(), rtol=1e-6)
    fine, half, coarse = pyramid
    by_hand = torch.cat([fine[0, :, 2, 4, 6], half[0, :, 1, 2, 3], coarse[0, :, 0, 1, 1]])
    np.testing.assert_allclose(voxel_features(pyramid, np.array([[1, 2, 3]]))[0], by_hand.numpy())


def test_a_region_that_is_linear_in_the_features_is_found(pyramid):
    voxels = np.argwhere(np.ones((4, 4, 4)))
    x = voxel_features(pyramid, voxels)
    inside = (x @ np.arange(9) > 1)[:, None]
    y = np.concatenate([inside, np.zeros_like(inside), np.ones_like(inside)], axis=1)
    readout = fit_voxels(x, y, (2, 3, 4))
    odds = readout(pyramid)[0].flatten(1).T.numpy()
    assert ((odds[:, 0] > 0) == inside[:, 0]).mean() > 0.9
    assert (odds[:, 1] == NEVER).all()
    assert (odds[:, 2] == -NEVER).all()
    # scikit-learn itself, on standardised features
    scaled = StandardScaler().fit_transform(x)
    expected = LogisticRegression(max_iter=1000).fit(scaled, inside[:, 0]).decision_function(scaled)
    np.testing.assert_allclose(odds[:, 0], expected, atol=1e-4)


def test_drawn_voxels():
    target = np.zeros((2, 6, 6, 6), bool)
    target[0, :3] = True
    target[1, 0, 0, :2] = True
    voxels = draw_voxels(target, 40, np.random.default_rng(0))
    of = [target[:, x, y, z].tolist() for x, y, z in voxels]
    assert len(voxels) == 10 + 2 + 20  # a quarter of 40 for each region, as far as it goes; half in none
    assert all(a for a, _ in of[:10])
    assert all(b for _, b in of[10:12])
    assert not any(a or b for a, b in of[12:])
    assert len(np.unique(voxels[12:], axis=0)) == 20
    again = draw_voxels(target, 40, np.random.default_rng(0))
    assert np.array_equal(voxels, again)
    assert not np.array_equal(voxels, draw_voxels(target, 40, np.random.default_rng(1)))


@pytest.mark.parametrize("truth", ["some", "none", "all"])
def test_dice_by_threshold_equals_dice_at_each(truth):
    random = np.random.default_rng(0)
    p = np.concatenate([random.random(200), THRESHOLDS[::7], [0.0, 1.0]]).astype(np.float32)
    t = {"some": random.random(len(p)) < p, "none": np.zeros(len(p), bool), "all": np.ones(len(p), bool)}[truth]
    expected = [dice(torch.from_numpy(p >= threshold), torch.from_numpy(t)) for threshold in THRESHOLDS]
    assert dice_by_threshold(p, t).tolist() == pytest.approx(expected)


def test_nothing_there_and_nothing_predicted_is_right():
    assert (dice_by_threshold(np.zeros(5), np.zeros(5, bool)) == 1).all()


def test_interpolation_is_that_of_heads(pyramid):
    """Nearest, as in VoxelwiseHead; the finest at every second voxel, where a stride-2 convolution is centred."""
    fine = pyramid[0]
    assert torch.equal(F.interpolate(fine, (4, 4, 4), mode="nearest"), fine[:, :, ::2, ::2, ::2])
