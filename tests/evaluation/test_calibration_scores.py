"""Calibration: laws, numbers by hand, and scikit-learn and scipy as independent authorities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from cggm_med.evaluation.calibration.scores import (
    BINS,
    MAX_LOG_ODDS,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    STEPS_PER_UNIT,
    ClassPredictions,
    RegionPredictions,
    at_limit,
    fit_temperature,
)


@pytest.fixture(scope="module")
def classes():
    """Perfectly calibrated: what is true is drawn from the predicted probabilities."""
    random = np.random.default_rng(0)
    logits = 2 * random.normal(size=(100_000, 4))
    # The largest of logits + Gumbel noise is distributed as their softmax.
    return logits, (logits + random.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.fixture(scope="module")
def voxels():
    """The same for a region: log-odds, and whether it is there."""
    random = np.random.default_rng(1)
    odds = 2.5 * random.normal(size=200_000) - 2
    return odds, random.random(len(odds)) < expit(odds)


def test_what_is_drawn_from_its_probability_is_calibrated(classes, voxels):
    # A bin of n predictions is off by about 0.4 / sqrt(n), and these have some 7,000 a bin.
    found = ClassPredictions(*classes)
    assert found.scores().ece < 0.006
    assert fit_temperature(found.slope) == pytest.approx(1, abs=0.01)
    odds, inside = voxels
    found = RegionPredictions.count(expit(odds), inside)
    assert found.scores().ece < 0.004
    assert fit_temperature(found.slope) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_what_logits_were_multiplied_by_is_found(classes, voxels, factor):
    logits, true = classes
    one = fit_temperature(ClassPredictions(logits, true).slope)
    found = ClassPredictions(factor * logits, true)
    temperature = fit_temperature(found.slope)
    assert temperature == pytest.approx(factor, rel=0.01)
    assert temperature == pytest.approx(factor * one, rel=1e-9)
    assert found.scores().ece > 0.05 > 0.01 > found.scores(temperature).ece
    odds, inside = voxels
    kept = np.abs(factor * odds) < MAX_LOG_ODDS  # beyond, log-odds are counted as the largest
    found = RegionPredictions.count(expit(factor * odds[kept]), inside[kept])
    assert fit_temperature(found.slope) == pytest.approx(factor, rel=0.01)


def test_classes_by_hand():
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.05, 0.95]])
    found = ClassPredictions(np.log(probability), np.array([0, 1, 1, 0])).scores()
    # Bins of width 1/15: 0.9 alone in the 14th (0.867 to 0.933), 0.8 in the 12th (0.733 to 0.8], 0.7 in the 11th and
    # 0.95 in the 15th; right, wrong, right, wrong.
    assert found.ece == pytest.approx((0.1 + 0.8 + 0.3 + 0.95) / 4)
    assert found.mce == pytest.approx(0.95)
    # Two classes: each sample's squared error counts twice.
    assert found.brier == pytest.approx(2 * (0.01 + 0.64 + 0.09 + 0.9025) / 4)
    assert found.nll == pytest.approx(-np.log([0.9, 0.2, 0.7, 0.05]).mean())
    assert found.count == 4
    assert [(i, round(b.confidence, 2), b.frequency) for i, b in enumerate(found.bins) if b.share] == [
        (10, 0.7, 1.0),
        (11, 0.8, 0.0),
        (13, 0.9, 1.0),
        (14, 0.95, 0.0),
    ]


def test_voxels_by_hand():
    found = RegionPredictions.count(np.array([0.5, 0.5, 0.5, 0.5]), np.array([True, True, True, False]))
    scores = found.scores()
    assert (scores.ece, scores.mce, scores.brier, scores.count) == (0.25, 0.25, 0.25, 4)
    assert scores.nll == pytest.approx(np.log(2))
    assert fit_temperature(found.slope) == 1  # no temperature changes one half
    # Of voxels with odds 4 to 1 half are inside: only a temperature without end would make that one half.
    unsure = RegionPredictions.count(np.full(4, 0.8), np.array([True, True, False, False]))
    assert fit_temperature(unsure.slope) == MAX_TEMPERATURE
    # Odds 9 to 1 where 3 to 1 would be right: T = ln 9 / ln 3 = 2.
    sure = RegionPredictions.count(np.full(4, 0.9), np.array([True, True, True, False]))
    assert fit_temperature(sure.slope) == pytest.approx(2, abs=0.002)


def errors_of_scikit_learn(right, confidence):
    """ECE and MCE from scikit-learn's curve, weighted with numpy's histogram."""
    frequency, mean = calibration_curve(right, confidence, n_bins=BINS)
    counts = np.histogram(confidence, BINS, (0, 1))[0]
    gaps = np.abs(frequency - mean)
    return gaps @ counts[counts > 0] / len(confidence), gaps.max()


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_top_label_error_equals_that_of_scikit_learn(classes, factor):
    logits, true = (x[:5000] for x in classes)
    found = ClassPredictions(factor * logits, true).scores()
    probability = softmax(factor * logits, axis=1)
    right = probability.argmax(axis=1) == true
    assert (found.ece, found.mce) == pytest.approx(errors_of_scikit_learn(right, probability.max(axis=1)))
    assert found.nll == pytest.approx(log_loss(true, probability), rel=1e-9)
    assert found.brier == pytest.approx(sum(brier_score_loss(true == c, probability[:, c]) for c in range(4)))


def test_region_error_equals_that_of_scikit_learn(voxels):
    odds, inside = (x[:20_000] for x in voxels)
    odds = np.rint(3 * odds.clip(-5, 5) * STEPS_PER_UNIT) / STEPS_PER_UNIT  # so that counting loses nothing
    p = expit(odds)
    found = RegionPredictions.count(p, inside).scores()
    assert (found.ece, found.mce) == pytest.approx(errors_of_scikit_learn(inside, p))
    assert found.brier == pytest.approx(brier_score_loss(inside, p))
    assert found.nll == pytest.approx(log_loss(inside, p))


def test_counting_costs_less_than_a_thousandth(voxels):
    odds, inside = (x[:20_000] for x in voxels)
    p = expit(odds)
    found = RegionPredictions.count(p.astype(np.float32), inside).scores()
    assert found.ece == pytest.approx(errors_of_scikit_learn(inside, p)[0], abs=5e-4)
    assert found.brier == pytest.approx(brier_score_loss(inside, p), abs=1e-5)
    assert found.nll == pytest.approx(log_loss(inside, p), abs=1e-5)


def test_the_temperature_equals_that_of_a_blind_search(classes):
    logits, true = (x[:2000] for x in classes)
    mine = ClassPredictions(2.2 * logits, true)
    blind = minimize_scalar(lambda t: mine.scores(t).nll, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8})
    assert fit_temperature(mine.slope) == pytest.approx(blind.x, rel=1e-4)
    region = RegionPredictions.count(expit(2.2 * logits[:, 0]), true == 0)
    blind = minimize_scalar(lambda t: region.scores(t).nll, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8})
    assert fit_temperature(region.slope) == pytest.approx(blind.x, rel=1e-4)


finite = st.floats(-30, 30, width=32)


@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=finite), st.integers(0, 2**12))
def test_laws_of_any_classes(logits, seed):
    true = np.random.default_rng(seed).integers(3, size=len(logits))
    found = ClassPredictions(logits, true)
    temperature = fit_temperature(found.slope)
    before, after = found.scores(), found.scores(temperature)
    assert MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE
    assert after.nll <= before.nll + 1e-9
    for scores in (before, after):
        assert 0 <= scores.ece <= scores.mce <= 1
        assert 0 <= scores.brier <= 2
        assert sum(b.share for b in scores.bins) == pytest.approx(1)
    # Rounding may make equal what hardly differed, but nothing overtakes.
    ordered = np.take_along_axis(logits / temperature, logits.argsort(axis=1), axis=1)
    assert (np.diff(ordered, axis=1) >= 0).all()


@settings(max_examples=25)
@given(arrays(np.float32, st.integers(1, 30), elements=st.floats(0, 1, width=32)), st.integers(0, 2**12))
def test_laws_of_any_voxels(p, seed):
    inside = np.random.default_rng(seed).random(len(p)) < 0.5
    found = RegionPredictions.count(p, inside)
    half = len(p) // 2
    first, second = (RegionPredictions.count(p[part], inside[part]) for part in (slice(half), slice(half, None)))
    parts = RegionPredictions(first.counts + second.counts)
    assert np.array_equal(parts.counts, found.counts)
    temperature = fit_temperature(found.slope)
    before, after = found.scores(), found.scores(temperature)
    assert after.nll <= before.nll + 1e-9
    assert np.isfinite([after.ece, after.mce, after.brier, after.nll]).all()
    assert before.count == len(p)


@pytest.mark.parametrize("temperature", [MIN_TEMPERATURE, 0.3, 1.7, MAX_TEMPERATURE])
def test_a_temperature_changes_no_mask(temperature):
    """What is written about it in every report, tried at the single-precision probabilities next to the threshold."""
    next_to_half = np.nextafter(np.float32(0.5), np.float32([0, 1]))
    p = np.concatenate([np.linspace(0, 1, 1001), next_to_half.astype(np.float64)])
    with np.errstate(divide="ignore"):
        scaled = expit(np.log(p / (1 - p)) / temperature)
    assert np.array_equal(scaled >= 0.5, p >= 0.5)


def test_certainty_and_nothing():
    certain = RegionPredictions.count(np.array([0.0, 1.0]), np.array([False, True]))
    assert certain.scores().nll < 1e-6
    assert fit_temperature(certain.slope) == MIN_TEMPERATURE
    wrong = RegionPredictions.count(np.array([0.0, 1.0]), np.array([True, False]))
    assert wrong.scores().nll == pytest.approx(MAX_LOG_ODDS)
    assert fit_temperature(wrong.slope) == MAX_TEMPERATURE
    assert at_limit(MIN_TEMPERATURE)
    assert at_limit(MAX_TEMPERATURE)
    assert not at_limit(1.0)
    nothing = RegionPredictions.count(np.zeros(0, np.float32), np.zeros(0, bool))
    assert nothing.scores() is None
    assert fit_temperature(nothing.slope) == 1
    assert ClassPredictions(np.zeros((0, 2)), np.zeros(0, int)).scores() is None
