import numpy as np
import pytest
from scipy import stats

from cggm_med.comparison.statistics import bootstrap_interval, holm, paired_p_value, ranks, seed_scores


def test_a_seed_without_cases_has_no_score():
    scores = seed_scores(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert scores[0] == 0.5
    assert np.isnan(scores[1])


def test_bootstrap_of_constant_scores_has_no_width():
    counts = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    assert bootstrap_interval(0.25 * counts, counts, resamples=200) == (0.25, 0.25)


def test_bootstrap_shifts_and_scales_with_the_scores():
    values = np.random.default_rng(0).random((4, 9))
    counts = np.ones_like(values)
    low, high = bootstrap_interval(values, counts, resamples=500)
    assert bootstrap_interval(2 * values + counts, counts, resamples=500) == pytest.approx((2 * low + 1, 2 * high + 1))
    assert low < values.mean() < high


def test_bootstrap_over_cases_alone_agrees_with_scipy():
    values = np.random.default_rng(1).random(40)
    mine = bootstrap_interval(values[None], np.ones((1, 40)))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10_000, method="percentile", rng=0).confidence_interval
    assert mine == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_bootstrap_over_seeds_alone_agrees_with_scipy():
    """All cases of a seed are alike, so only the draw of the seeds matters."""
    of_seed = np.random.default_rng(2).random(30)
    mine = bootstrap_interval(np.repeat(of_seed[:, None], 5, axis=1), np.ones((30, 5)))
    theirs = stats.bootstrap((of_seed,), np.mean, n_resamples=10_000, method="percentile", rng=0).confidence_interval
    assert mine == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_a_hard_case_is_hard_for_all_seeds():
    """Ten seeds on the same cases say no more about other cases than one."""
    of_case = np.random.default_rng(3).random(20)
    one = bootstrap_interval(of_case[None], np.ones((1, 20)))
    ten = bootstrap_interval(np.repeat(of_case[None], 10, axis=0), np.ones((10, 20)))
    assert ten[1] - ten[0] == pytest.approx(one[1] - one[0], rel=0.05)


def test_bootstrap_covers_the_truth():
    """Of 200 experiments with random seeds and cases, about 95 % of the intervals hold the true mean, 0."""
    random = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        values = random.normal(size=(15, 1)) + random.normal(size=(1, 15)) + random.normal(size=(15, 15))
        low, high = bootstrap_interval(values, np.ones((15, 15)), resamples=400)
        held += low <= 0 <= high
    assert 180 <= held <= 200


def test_a_weighted_case_counts_as_often_as_its_values():
    """A conversation of three utterances weighs three times one of a single utterance."""
    sums, counts = np.array([[3.0, 0.0]]), np.array([[3.0, 1.0]])
    assert seed_scores(sums, counts).item() == 0.75
    low, high = bootstrap_interval(sums, counts)
    assert (low, high) == (0.0, 1.0)


def test_paired_test_agrees_with_scipy_without_shared_training_data():
    random = np.random.default_rng(5)
    a, b = random.random(8), random.random(8)
    assert paired_p_value(list(a - b)) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_shared_training_data_make_the_test_more_careful():
    d = [0.02, 0.03, 0.01, 0.025]
    assert paired_p_value(d) < paired_p_value(d, test_share=0.25) < paired_p_value(d, test_share=1.0)


def test_the_correction_by_hand():
    # mean 2, variance 1, 3 runs, test share 1/3: t = 2 / sqrt(2/3); two degrees of freedom.
    assert paired_p_value([1.0, 2.0, 3.0], test_share=1 / 3) == pytest.approx(2 * stats.t.sf(2 / (2 / 3) ** 0.5, 2))


def test_the_corrected_test_errs_rarely_where_the_plain_one_errs_often():
    """Two learners that are equally good, on random splits of one small sample: p < 0.05 should be rare."""
    random = np.random.default_rng(6)
    plain = corrected = 0
    for _ in range(150):
        quality = random.normal(size=40)  # how much better one learner does on each case: 0 in the mean
        differences = [random.permutation(quality)[:10].mean() for _ in range(15)]
        plain += paired_p_value(differences) < 0.05
        corrected += paired_p_value(differences, test_share=10 / 30) < 0.05
    assert corrected / 150 < 0.1 < plain / 150


@pytest.mark.parametrize("d", [[], [0.3]])
def test_no_test_of_less_than_two_runs(d):
    assert paired_p_value(d) is None


def test_no_difference_at_all():
    assert paired_p_value([0.0, 0.0, 0.0]) == 1.0
    assert paired_p_value([0.1, 0.1]) is None  # no variance, so no test


def test_holm_by_hand():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.2}) == pytest.approx({"a": 0.08, "b": 0.03, "c": 0.2})


def test_holm_never_falls_below_plain_nor_exceeds_bonferroni():
    random = np.random.default_rng(7)
    p = {str(i): float(x) for i, x in enumerate(random.random(12) ** 3)}
    adjusted = holm(p)
    assert all(p[k] <= adjusted[k] <= min(1, 12 * p[k]) for k in p)
    order = sorted(p, key=p.get)
    assert [adjusted[k] for k in order] == sorted(adjusted.values())


def test_ranks_in_both_directions():
    assert ranks({"a": 1.0, "b": 2.0}, lower_is_better=True) == {"a": 1.0, "b": 2.0}
    assert ranks({"a": 1.0, "b": 2.0}, lower_is_better=False) == {"a": 2.0, "b": 1.0}
