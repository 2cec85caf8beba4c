"""External validation: agreement by hand and by others' numbers, bootstrap over patients, strata."""

import numpy as np
import pytest
from scipy import stats

from cggm_med.errors import DataError
from cggm_med.evaluation.external.agreement import agreement, bootstrap_means, icc, icc_interval
from cggm_med.evaluation.external.figure import bland_altman_figure
from cggm_med.evaluation.external.strata import read_strata, sizes
from cggm_med.evaluation.external.validation import validate

# Shrout and Fleiss 1979, Table 2: six targets, four judges.
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


@pytest.fixture
def volumes():
    random = np.random.default_rng(3)
    true = random.gamma(2, 10, 40)
    return true + random.normal(1, 3, 40), true


def patients(count, each=1):
    return [f"p{i // each}" for i in range(count)]


def test_icc_is_that_of_the_published_example():
    """ICC(2,1) of 0.29, which McGraw and Wong's interval spans from 0.02 to 0.76 (as R's psych::ICC prints it)."""
    assert icc(JUDGES) == pytest.approx(0.29, abs=0.005)
    assert icc_interval(JUDGES) == pytest.approx((0.02, 0.76), abs=0.005)


def test_icc_of_two_raters_is_the_one_of_moments(volumes):
    """With two raters the mean squares are sample moments: an independent way to the same number."""
    p, t = volumes
    found = agreement(p, t, patients(40)).icc.value
    (var_p, cov), (_, var_t) = np.cov(p, t)
    difference = p - t
    assert found == pytest.approx(2 * cov / (var_p + var_t + difference.mean() ** 2 - difference.var(ddof=1) / 40))


def test_icc_sees_a_shift_that_correlation_does_not():
    true = np.arange(10.0)
    assert stats.pearsonr(true, true + 5).statistic == pytest.approx(1)
    # By hand: rows 2 * 9.1667 = 18.333, columns 10 / 1 * 2 * 2.5^2 = 125, rest 0: 18.333 / (18.333 + 25).
    assert icc(np.column_stack([true, true + 5])) == pytest.approx(18.3333 / (18.3333 + 25), abs=1e-4)


def test_bland_altman_by_hand():
    """Differences 1, 2, 3: mean 2, sample deviation 1, t of two degrees of freedom 4.3027."""
    found = agreement([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], patients(3))
    assert (found.bias.value, found.low.value, found.high.value) == pytest.approx((2, 0.04004, 3.95996), abs=1e-5)
    assert found.bias.interval == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)
    half = 4.30265 * (1 / 3 + 1.95996**2 / 4) ** 0.5
    assert found.low.interval == pytest.approx((0.04004 - half, 0.04004 + half), abs=1e-4)


def test_agreement_does_not_change_with_the_order_and_turns_with_the_roles(volumes):
    p, t = volumes
    one, other = agreement(p, t, patients(40)), agreement(t[::-1], p[::-1], patients(40))
    assert other.bias.value == pytest.approx(-one.bias.value)
    assert other.high.value == pytest.approx(-one.low.value)
    assert other.icc.value == pytest.approx(one.icc.value)


def test_a_single_case_and_perfect_agreement_have_what_is_defined():
    alone = agreement([2.0], [1.0], ["p"])
    assert (alone.bias.value, alone.low.value, alone.icc.value) == (1, None, None)
    perfect = agreement([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], patients(3))
    assert (perfect.icc.value, perfect.icc.interval, perfect.bias.interval) == (1, None, (0, 0))
    assert agreement([0.0] * 4, [0.0] * 4, patients(4)).icc.value is None


def test_cases_of_one_patient_are_drawn_together(volumes):
    """Every case twice is no more information: the interval stays, while one that ignores patients shrinks."""
    p, t = volumes
    once = bootstrap_means((p - t)[:, None], patients(40))[0]
    twice = bootstrap_means(np.repeat(p - t, 2)[:, None], patients(80, each=2))[0]
    careless = bootstrap_means(np.repeat(p - t, 2)[:, None], patients(80))[0]
    width = [high - low for low, high in (once.interval, twice.interval, careless.interval)]
    assert width[1] == pytest.approx(width[0])
    assert width[2] < 0.8 * width[0]
    both = agreement(np.repeat(p, 2), np.repeat(t, 2), patients(80, each=2))
    assert both.bias.interval == pytest.approx(agreement(p, t, patients(40)).bias.interval, abs=0.2)


def test_the_bootstrap_of_a_mean_is_about_as_wide_as_t(volumes):
    p, t = volumes
    found = bootstrap_means((p - t)[:, None], patients(40))[0].interval
    expected = stats.ttest_1samp(p - t, 0).confidence_interval()
    assert found == pytest.approx(tuple(expected), abs=0.15)
    assert bootstrap_means(np.ones((4, 1)), patients(4))[0].interval is None  # too few patients


def rows(count=12):
    return [
        {
            "case": f"c{i}",
            "region": name,
            "dice": i / 20,
            "hd95_mm": 1.0,
            "target_ml": float(i),
            "predicted_ml": i + 1,
        }
        for i in range(count)
        for name in ("WT", "ET")
    ]


def test_strata_divide_all_cases_of_each_region(pictures, tmp_path):
    site = {f"c{i}": "north" if i < 6 else "south" for i in range(12)}
    found = validate(rows(), {}, {"site": site})
    of = {(r["region"], r["column"], r["stratum"]): r for r in found.strata}
    assert of["WT", "site", "north"]["dice"] == pytest.approx(np.mean([0, 1, 2, 3, 4, 5]) / 20)
    assert of["WT", "all", "all"]["cases"] == 12
    assert [key[2] for key in of if key[:2] == ("ET", "true volume")] == [
        "0 mL",
        "1 to 4 mL",
        "5 to 8 mL",
        "9 to 11 mL",
    ]
    for region in ("WT", "ET"):
        for column in ("site", "true volume"):
            assert sum(r["cases"] for key, r in of.items() if key[:2] == (region, column)) == 12
    assert found.agreement[0]["bias_ml"] == 1
    (agreed, strata) = found.tables
    assert agreed.rows[0][:3] == ("WT", "12", "+1.00 [+1.00, +1.00]")
    assert len(strata.rows) == len(found.strata)
    bland_altman_figure(tmp_path / "b.png", "title", found.volumes, found.found)
    assert (tmp_path / "b.png").stat().st_size > 5_000


def test_equal_volumes_stay_in_one_third_or_are_told_by_their_ends():
    assert set(sizes([{"case": str(i), "target_ml": 2.0} for i in range(6)]).values()) == {"2 to 2 mL"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,site\na,1\n", "has no column 'case'"),
        ("case\na\nb\n", "has no column 'case' and others"),
        ("case,site\na,1\n", "lacks 1 of 2 cases: b"),
        ("case,site\na,1\na,2\nb,1\n", "names cases twice: a; keep one"),
        ("case,age\n" + "".join(f"{x},{i}\n" for i, x in enumerate("abcdefghijklmn")), "column 'age' has 14 different"),
    ],
)
def test_a_table_of_strata_that_cannot_be_used_is_refused(tmp_path, text, said):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read_strata(tmp_path / "s.csv", [*"abcdefghijklmn"] if "age" in text else ["a", "b"])


def test_a_table_of_strata_as_a_spreadsheet_saves_it(tmp_path):
    (tmp_path / "s.csv").write_text("\ufeffcase,site\na,North\nb,\nother,South\n", encoding="utf-8")
    assert read_strata(tmp_path / "s.csv", ["a", "b"]) == {"site": {"a": "North", "b": "not given"}}
