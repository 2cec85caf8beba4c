"""Missing modalities imposed for studies: exact rates, never an empty case, the same in any order; and files."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cggm_med.data.cases import Case, ImageFile
from cggm_med.data.imposed import draw_absent, without_imposed
from cggm_med.errors import ConfigError, DataError, UnknownName

MODALITIES = ("flair", "t1", "t1ce", "t2")
RATES = dict(zip(MODALITIES, (0.2, 0.4, 0.6, 0.8), strict=True))


def cases(count=10, lacking=()):
    images = {m: ImageFile(f"{m}.nii.gz") for m in MODALITIES}
    held = [{m: x for m, x in images.items() if m not in lacking} for _ in range(count)]
    return [Case(f"case{number}", f"case{number}", of, None) for number, of in enumerate(held)]


def taken(left):
    return {case.id: tuple(m for m in MODALITIES if m not in case.images) for case in left}


def imposed(setting, of=None, seed=0):
    of = of or cases()
    return without_imposed(of, MODALITIES, setting, [case.id for case in of], seed)


# Rates


@given(st.integers(1, 40), st.integers(0, 99))
def test_rates_are_exact_up_to_rounding_and_nobody_is_left_with_nothing(count, seed):
    absent = draw_absent({f"c{i}": set() for i in range(count)}, RATES, seed)
    for modality, rate in RATES.items():
        assert sum(modality in gone for gone in absent.values()) == round(rate * count)
    assert all(len(gone) < len(MODALITIES) for gone in absent.values())


def test_the_published_rates_of_ten_cases():
    """2, 4, 6 and 8 of 10 cases lack FLAIR, T1, T1ce and T2."""
    gone = taken(imposed("2-4-6-8"))
    assert [sum(m in of for of in gone.values()) for m in MODALITIES] == [2, 4, 6, 8]


def test_another_seed_draws_other_cases_and_the_setting_may_hold_it():
    draws = [taken(imposed("2-4-6-8", seed=seed)) for seed in range(3)]
    assert draws[0] != draws[1] != draws[2]
    assert taken(imposed("2-4-6-8:2")) == taken(imposed("2-4-6-8:2", seed=1)) == draws[2]


def test_the_order_of_the_cases_does_not_matter():
    assert taken(imposed("2-4-6-8", cases()[::-1])) == taken(imposed("2-4-6-8"))


def test_what_is_missing_already_counts():
    """All lack T2 already: the draw takes 0, and only of the others what leaves something."""
    gone = taken(imposed("2-4-6-8", cases(lacking=("t2",))))
    assert [sum(m in of for of in gone.values()) for m in MODALITIES] == [2, 4, 6, 10]
    assert all(len(of) < 4 for of in gone.values())


@pytest.mark.parametrize(("setting", "count"), [("2-4-6", 3), ("2-4-6-8-9", 5)])
def test_there_is_one_rate_for_each_modality(setting, count):
    expected = f"data.missing is {setting}, {count} rates in tenths; expected one for each of the 4 modalities"
    with pytest.raises(ConfigError, match=expected):
        imposed(setting)


def test_rates_that_leave_nothing_are_refused():
    with pytest.raises(ConfigError, match="which leaves case case[0-9] without any image"):
        imposed("9-9-9-9")


# Files


def test_a_json_file_names_what_is_missing(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"case1": ["t1", "t2"], "case3": []}))
    gone = taken(imposed(str(tmp_path / "a.json")))
    assert {case: of for case, of in gone.items() if of} == {"case1": ("t1", "t2")}


def test_a_csv_file_has_a_column_for_each_modality(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffcase,flair,t2\r\ncase1,0,1\r\ncase2,1,1\r\ncase3,0,0\r\n")
    gone = taken(imposed(str(tmp_path / "a.csv")))
    assert {case: of for case, of in gone.items() if of} == {"case1": ("flair",), "case3": ("flair", "t2")}


def test_cases_that_are_not_trained_on_keep_everything(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"case1": ["t1"], "case9": ["t2"]}))
    training = [case.id for case in cases()[:3]]
    left = without_imposed(cases(), MODALITIES, str(tmp_path / "a.json"), training, 0)
    assert {case: of for case, of in taken(left).items() if of} == {"case1": ("t1",)}
    assert {case for case, of in taken(without_imposed(cases(), MODALITIES, "0-9-0-0", training, 0)).items() if of} == {
        *training
    }


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("a.json", '{"case77": ["t1"]}', UnknownName, "no case 'case77'"),
        ("a.json", '{"case1": ["t3"]}', UnknownName, "no modality of the run 't3'"),
        ("a.json", '{"case1": "t1"}', DataError, "expected the missing modalities of each case"),
        ("a.json", "[]", DataError, "expected the missing modalities of each case"),
        ("a.json", '{"case1": ["flair", "t1", "t1ce", "t2"]}', DataError, "leaves these cases without any image"),
        ("a.csv", "id,t1\ncase1,0\n", DataError, "has the columns ['id', 't1']; expected case, flair"),
        ("a.csv", "case,t1\ncase1,no\n", DataError, "line 2: {'case': 'case1', 't1': 'no'}; expected each case once"),
        ("a.csv", "case,t1\ncase1,0\ncase1,1\n", DataError, "line 3: "),
        ("a.csv", "", DataError, "has the columns []"),
        ("a.txt", "", ConfigError, "expected rates in tenths, such as 2-4-6-8, or a file that ends with .json or .csv"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, text, error, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(error, match=re.escape(message)):
        imposed(str(tmp_path / name))


@pytest.mark.parametrize("name", ["none.json", "none.csv"])
def test_a_file_that_is_not_there_is_said(tmp_path, name):
    with pytest.raises(DataError, match=f"cannot read .*{name}"):
        imposed(str(tmp_path / name))
