import numpy as np
import pytest
from scipy import stats

from cggm_med.comparison.max_t import max_t
from cggm_med.comparison.statistics import (
    bootstrap_estimate,
    bootstrap_interval,
    detectable,
    ranks,
    seed_matrix,
    seed_scores,
    t_estimate,
)

SIGNS_OF_3 = ((1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1))


def test_a_seed_without_cases_has_no_score():
    scores = seed_scores(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]]))
    assert scores[0] == 0.5
    assert np.isnan(scores[1])


def test_the_cases_of_a_patient_are_drawn_together():
    values = [(0, {"a1": (1.0, 1.0), "a2": (0.5, 1.0), "b": (0.25, 1.0)})]
    sums, counts = seed_matrix(values, {"a1": "a", "a2": "a"})
    assert (sums.tolist(), counts.tolist()) == ([[1.5, 0.25]], [[2, 1]])


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


def test_the_t_estimate_agrees_with_scipy_without_shared_training_data():
    random = np.random.default_rng(5)
    a, b = random.random(8), random.random(8)
    mine, theirs = t_estimate(a - b), stats.ttest_rel(a, b)
    assert mine.p == pytest.approx(theirs.pvalue)
    assert mine.interval() == pytest.approx(tuple(theirs.confidence_interval()))
    assert mine.p_at_most(0.1) == pytest.approx(stats.ttest_1samp(a - b, 0.1, alternative="greater").pvalue)


def test_the_correction_for_shared_training_data_by_hand():
    # mean 2, variance 1, 3 runs, test share 1/3: t = 2 / sqrt(2/3); two degrees of freedom.
    error = (2 / 3) ** 0.5
    found = t_estimate([1.0, 2.0, 3.0], test_share=1 / 3)
    assert found.p == pytest.approx(2 * stats.t.sf(2 / error, 2))
    assert found.interval()[0] == pytest.approx(2 - stats.t.isf(0.025, 2) * error)


def test_a_unit_that_is_the_sum_of_several_values_weighs_as_many():
    """With counts, the mean is that of all values, and its error that of a ratio of sums over whole units."""
    found = t_estimate([1.0, 4.0], [1.0, 2.0])
    assert found.mean == pytest.approx(5 / 3)
    assert found.error == pytest.approx((2 * 2 * (2 / 3) ** 2) ** 0.5 / 3)


def test_the_corrected_test_errs_rarely_where_the_plain_one_errs_often():
    """Two learners that are equally good, on random splits of one small sample: p < 0.05 should be rare."""
    random = np.random.default_rng(6)
    plain = corrected = 0
    for _ in range(150):
        quality = random.normal(size=40)  # how much better one learner does on each case: 0 in the mean
        differences = [random.permutation(quality)[:10].mean() for _ in range(15)]
        plain += t_estimate(differences).p < 0.05
        corrected += t_estimate(differences, test_share=10 / 30).p < 0.05
    assert corrected / 150 < 0.1 < plain / 150


@pytest.mark.parametrize("estimate", [t_estimate, lambda d: bootstrap_estimate(np.array(d), np.ones(len(d)))])
def test_too_few_units_and_no_difference_at_all(estimate):
    assert estimate([0.3]) is None
    assert (estimate([0.0] * 6).p, estimate([0.0] * 6).interval()) == (1.0, (0.0, 0.0))
    assert estimate([0.1] * 6) is None  # no variance, so no test


def test_bootstrap_and_t_agree_on_many_patients_that_differ_little_in_size():
    random = np.random.default_rng(8)
    counts = random.integers(1, 3, 60).astype(float)
    sums = counts * random.normal(0.3, 1, 60)
    one, other = bootstrap_estimate(sums, counts), t_estimate(sums, counts)
    assert (one.mean, one.error) == pytest.approx((other.mean, other.error), rel=0.05)
    assert one.interval() == pytest.approx(other.interval(), abs=0.05)
    assert one.p == pytest.approx(other.p, abs=0.02)


def test_interval_and_p_of_a_bootstrap_say_the_same():
    for seed in range(20):
        found = bootstrap_estimate(np.random.default_rng(seed).normal(0.6, 1, 9), np.ones(9), resamples=2_000)
        assert (found.interval()[0] > 0) == (found.p < 0.05)


@pytest.mark.parametrize(("freedom", "critical"), [(3, 4.0), (14, None), (29, 3.2)])
def test_what_can_be_detected_has_a_power_of_80_percent(freedom, critical):
    """Against scipy's noncentral t, which has no tails for other arguments."""
    true = detectable(2.0, freedom, critical) / 2.0
    needed = stats.t.isf(0.025, freedom) if critical is None else critical
    assert stats.nct.sf(needed, freedom, true) == pytest.approx(0.8, abs=1e-4)


def test_differences_without_an_error_are_found_however_small_they_are():
    """Also where no comparison of a family varies, so that any t above 0 is enough."""
    assert detectable(0.0, 4, 0.0) == detectable(0.0, 4) == 0


def test_max_t_by_hand():
    """Three runs, two strategies. Four patterns of signs keep the first one."""
    d = np.array([[0.1, 0.3], [0.2, -0.1], [0.3, 0.1]])
    t = [abs(stats.ttest_1samp(d * np.array(signs)[:, None], 0).statistic) for signs in SIGNS_OF_3]
    largest = [max(pair) for pair in t]
    expected = [np.mean([x >= own - 1e-9 for x in largest]) for own in t[0]]
    found = max_t(d, np.ones((3, 2)))
    assert found.p == pytest.approx(expected)
    assert (found.p[0], found.smallest, found.critical) == (0.25, 0.25, None)


def test_max_t_of_one_comparison_agrees_with_scipys_permutation_test():
    d = np.random.default_rng(9).normal(0.5, 1, 8)
    theirs = stats.permutation_test(
        (d,), lambda x, axis: stats.ttest_1samp(x, 0, axis=axis).statistic, permutation_type="samples"
    )
    assert max_t(d[:, None], np.ones((8, 1))).p[0] == pytest.approx(theirs.pvalue)


def test_max_t_is_never_below_the_test_of_one_and_never_above_bonferroni():
    d = np.random.default_rng(10).normal(0.4, 1, (11, 5))
    alone = [max_t(d[:, [k]], np.ones((11, 1))).p[0] for k in range(5)]
    found = max_t(d, np.ones((11, 5))).p
    assert all(one <= p <= min(1, 5 * one) + 1e-12 for one, p in zip(alone, found, strict=True))


def test_copies_of_a_strategy_cost_nothing_and_a_missing_run_is_no_difference_of_zero():
    d = np.random.default_rng(11).normal(0.4, 1, (9, 1))
    one = max_t(d, np.ones((9, 1))).p[0]
    assert max_t(np.repeat(d, 4, 1), np.ones((9, 4))).p == pytest.approx([one] * 4)
    missing = np.vstack([d, [[np.nan]]])
    assert max_t(missing, np.ones((10, 1))).p[0] == pytest.approx(one)


def test_what_cannot_be_tested_is_left_out_of_max_t():
    d = np.array([[0.1, 0.0, 0.3], [0.1, 0.0, 0.1], [0.1, 0.0, 0.2]])
    found = max_t(d, np.ones((3, 3)))
    assert np.isnan(found.p[0])
    assert found.p[1:].tolist() == [1.0, 0.25]


def test_of_many_equal_strategies_on_fresh_patients_five_percent_find_one_that_is_better():
    """The family's error is nominal, that of each p by itself nominal too, though all share the baseline."""
    random, found, single = np.random.default_rng(12), 0, 0
    for _ in range(300):
        d = random.normal(size=(9, 6)) - random.normal(size=(9, 1))
        found += (max_t(d, np.ones((9, 6))).p <= 0.05).any()
        single += t_estimate(d[:, 0]).p <= 0.05
    assert 0.02 < found / 300 < 0.08
    assert 0.02 < single / 300 < 0.08


def test_with_one_test_set_each_number_holds_for_what_it_is_about():
    """Differences with effects of patients and of seeds, 6 seeds on the same 20 patients; nominal coverage is 95 %.

    Over seeds: the truth is the mean of all seeds on these patients. Over patients: that of these networks on all.
    """
    random, seeds, patients, wrong = np.random.default_rng(13), 0, 0, 0
    for _ in range(300):
        of_patient, of_seed = random.normal(size=20), random.normal(0, 0.3, size=(6, 1))
        d = of_seed + of_patient + random.normal(0, 0.5, size=(6, 20))
        over_seeds = t_estimate(d.mean(1))
        over_patients = bootstrap_estimate(d.mean(0), np.ones(20), resamples=1_000)
        low, high = over_seeds.interval()
        seeds += low <= of_patient.mean() <= high
        wrong += not low <= 0 <= high  # the same interval, read as one about other patients
        low, high = over_patients.interval()
        patients += low <= of_seed.mean() <= high
    assert 0.92 < seeds / 300 < 0.98
    assert 0.92 < patients / 300 < 0.98
    assert wrong / 300 > 0.2


def test_ranks_in_both_directions():
    assert ranks({"a": 1.0, "b": 2.0}, lower_is_better=True) == {"a": 1.0, "b": 2.0}
    assert ranks({"a": 1.0, "b": 2.0}, lower_is_better=False) == {"a": 2.0, "b": 1.0}
