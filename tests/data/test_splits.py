"""Splits: no patient on two sides, and the same draw everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cggm_med.data.cases import Case, CaseList
from cggm_med.data.splits import (
    Splits,
    check_splits,
    declared_folds,
    fold_splits,
    from_sections,
    read_splits,
    split_by_group,
    write_splits,
)
from cggm_med.errors import ConfigError, DataError, UnknownName


def make_cases(patients: int, visits: int = 1) -> list[Case]:
    return [Case(f"p{p}-{v}", f"p{p}", {}, None) for p in range(patients) for v in range(visits)]


@given(
    visits=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    fractions=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
    seed=st.integers(0, 5),
)
def test_laws_of_a_draw(visits: list[int], fractions: tuple[float, float], seed: int) -> None:
    """Every case once, no patient on two sides, asked-for sizes; the order of the input does not matter."""
    validation, test = fractions
    sizes = [max(1, round(f * len(visits))) if f > 0 else 0 for f in fractions]
    assume(validation + test < 1 and sum(sizes) < len(visits))
    cases = [Case(f"p{p}-{v}", f"p{p}", {}, None) for p, count in enumerate(visits) for v in range(count)]
    splits = split_by_group(cases, validation=validation, test=test, seed=seed)
    check_splits(splits, cases)
    assert sorted(splits.train + splits.validation + splits.test) == sorted(case.id for case in cases)
    patients = [{case_id.split("-")[0] for case_id in ids} for ids in (splits.validation, splits.test)]
    assert [len(group) for group in patients] == sizes
    assert split_by_group(cases[::-1], validation=validation, test=test, seed=seed) == splits


def test_the_draw_is_frozen() -> None:
    """A change of these ids would silently change what published figures were measured on.

    By hand: of ``printf '0 p7' | sha256sum`` and its nine siblings, p7 and p5 are the smallest, then p8 and p2.
    """
    splits = split_by_group(make_cases(10), validation=0.2, test=0.2, seed=0)
    train = ("p0-0", "p1-0", "p3-0", "p4-0", "p6-0", "p9-0")
    assert splits == Splits(train, validation=("p5-0", "p7-0"), test=("p2-0", "p8-0"))


def test_another_seed_gives_another_draw_and_all_patients_get_their_turn() -> None:
    cases = make_cases(10)
    draws = [split_by_group(cases, validation=0, test=0.1, seed=seed).test for seed in range(200)]
    counts = {case.id: draws.count((case.id,)) for case in cases}
    # 200 draws of 1 in 10: 20 each, standard deviation 4.2; four of them either way.
    assert all(3 <= count <= 37 for count in counts.values()), counts


def test_a_small_fraction_still_takes_one_patient() -> None:
    splits = split_by_group(make_cases(5, visits=2), validation=0.01, test=0, seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 2, 0)


def test_too_few_patients() -> None:
    with pytest.raises(DataError, match=r"2 patients are too few: data.validation=0.2 takes 1, data.test=.* takes 1"):
        split_by_group(make_cases(2, visits=9), validation=0.2, test=0.2, seed=0)
    with pytest.raises(DataError, match="0 patients"):
        split_by_group([], validation=0, test=0, seed=0)


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0), (0.5, 0.5), (0, 1), (float("nan"), 0)])
def test_impossible_fractions(validation: float, test: float) -> None:
    with pytest.raises(ConfigError, match="a sum below 1"):
        split_by_group(make_cases(9), validation=validation, test=test, seed=0)


def test_written_splits_read_back(tmp_path: Path) -> None:
    cases = make_cases(9)
    splits = split_by_group(cases, validation=0.2, test=0.2, seed=3)
    write_splits(tmp_path / "splits.json", splits)
    assert read_splits(tmp_path / "splits.json", cases) == splits
    assert json.loads((tmp_path / "splits.json").read_text()) == {name: list(ids) for name, ids in splits.items()}


@pytest.mark.parametrize("content", [[], {"train": ["p0-0"]}, {"train": "p0-0", "validation": [], "test": []}])
def test_files_that_are_no_splits(tmp_path: Path, content: object) -> None:
    (tmp_path / "s.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r's\.json holds .*; expected {"train"'):
        read_splits(tmp_path / "s.json", make_cases(2))


def test_unknown_split_and_bad_json(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"train": ["p0-0"], "val": ["p1-0"], "test": []}')
    with pytest.raises(UnknownName, match="no split 'val'"):
        read_splits(tmp_path / "s.json", make_cases(2))
    (tmp_path / "s.json").write_text('{"train": ')
    with pytest.raises(DataError, match="line 1, column 11"):
        read_splits(tmp_path / "s.json", make_cases(2))


def test_read_splits_are_checked_against_the_cases(tmp_path: Path) -> None:
    write_splits(tmp_path / "s.json", Splits(("p0-0",), ("gone",), ()))
    with pytest.raises(DataError, match="validation names case gone"):
        read_splits(tmp_path / "s.json", make_cases(2))


def test_every_fault_of_a_split_is_listed() -> None:
    splits = Splits(("p0-0", "p1-0", "p1-0"), ("p0-1", "gone"), ("p1-0", "p2-0"))
    with pytest.raises(DataError) as caught:
        check_splits(splits, make_cases(3, visits=2))
    assert caught.value.problems == (
        "case p1-0 stands in train and again in train",
        "patient p0 stands in train (case p0-0) and validation (case p0-1)",
        "validation names case gone, which the data do not have",
        "case p1-0 stands in train and again in test",
    )


def test_empty_training_is_refused_and_unused_cases_are_not() -> None:
    with pytest.raises(DataError, match="train is empty"):
        check_splits(Splits((), ("p0-0",), ()), make_cases(3))
    check_splits(Splits(("p0-0",), (), ()), make_cases(3))


def test_sections_of_a_datalist() -> None:
    cases = tuple(make_cases(3))
    sections = {"training": ("p0-0", "p2-0"), "validation": ("p1-0",)}
    splits = from_sections(CaseList(cases, "datalist", None, sections))
    assert splits == Splits(("p0-0", "p2-0"), ("p1-0",), ())


def test_sections_that_share_a_patient_or_do_not_exist() -> None:
    cases = tuple(make_cases(1, visits=2))
    with pytest.raises(DataError, match=r"patient p0 stands in train \(case p0-0\) and test \(case p0-1\)"):
        from_sections(CaseList(cases, "datalist", None, {"training": ("p0-0",), "test": ("p0-1",)}))
    with pytest.raises(DataError, match="layout brats2021 declares no splits"):
        from_sections(CaseList(cases, "brats2021", None, None))


def test_a_file_that_belongs_to_other_data_does_not_fill_the_screen() -> None:
    """250 strangers: the first 100 are listed, the others counted."""
    strangers = tuple(f"x{n}" for n in range(250))
    with pytest.raises(DataError) as error:
        check_splits(Splits(strangers, (), ()), make_cases(2))
    assert error.value.problems[99:] == ("train names case x99, which the data do not have", "and 150 more")


def folded(folds):
    return [Case(f"c{i}", f"p{i // 2}", {}, None, fold=fold) for i, fold in enumerate(folds)]


def test_declared_folds_test_every_case_once_and_divide_no_patient():
    cases = folded("0011223310")
    cases[8:] = [Case("c8", "p8", {}, None, fold="10"), Case("c9", "p8", {}, None, fold="10")]
    assert declared_folds(cases) == ("0", "1", "2", "3", "10")
    splits = [fold_splits(cases, fold, validation=0.2) for fold in declared_folds(cases)]
    assert sorted(id for s in splits for id in s.test) == sorted(case.id for case in cases)
    for s in splits:
        check_splits(s, cases)
        assert len(s.validation) == 2
    assert declared_folds([*cases, Case("x", "x", {}, None)]) == ()


def test_folds_that_divide_patients_or_do_not_exist_are_refused():
    with pytest.raises(DataError, match=r"fold 0 divides patients.*\n  c1"):
        fold_splits(folded("0122"), "0", validation=0)
    with pytest.raises(UnknownName, match="no fold '7'"):
        fold_splits(folded("0011"), "7", validation=0)
    with pytest.raises(DataError, match="no case names its fold; leave it out and let 'cggm-med compare --folds 5'"):
        fold_splits([Case("a", "a", {}, None)], "7", validation=0)
    with pytest.raises(DataError, match="leaves none to train"):
        fold_splits(folded("00"), "0", validation=0)
