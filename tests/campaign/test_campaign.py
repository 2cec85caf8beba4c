"""A few tries of each campaign, drawn from seed 0: that the promises hold, and that each campaign tries its kinds."""

import ast

import pytest

from campaign import flat, hostile, kills, malformed, metrics, mutants, private
from campaign.child import Ended
from campaign.tries import attempts, drawn


def test_metrics():
    kinds, bad = attempts(metrics.attempt, range(60))
    assert not bad
    assert set(kinds) == {*metrics.SHAPES, "classes", "values"}


def test_a_metric_that_is_wrong_is_found():
    expected = {"dice": (0.5, 0.5), "lesion_hd95_mm": (1.0, 2.0)}
    found = {"dice": 0.5 + 2e-6, "lesion_hd95_mm": 1.5}
    assert metrics.wrong(found, expected) == ["dice is 0.500002, expected 0.5 to 0.5"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", None)  # which what the tries share replaces; other tests have their own
        yield malformed.sound_files(tmp_path_factory.mktemp("campaign"))


@pytest.fixture(scope="module")
def attacks(files):
    return hostile.Attacks(files)


@pytest.mark.parametrize("kind", malformed.KINDS)
def test_malformed_files(files, kind):
    for number in range(2):
        assert files.attempt(drawn(0, number), kind) == (kind, [])


@pytest.mark.parametrize("carrier", hostile.CARRIERS)
def test_hostile_files(attacks, carrier):
    assert attacks.attempt(drawn(0, 0), carrier) == (carrier, [])


@pytest.mark.parametrize("place", private.PLACES)
def test_private_tokens(files, place):
    outcome, bad = private.Plants(files).attempt(drawn(3, 0), place)
    assert (outcome, bad) == (f"{place} read", [])


def test_kills(tmp_path):
    reached, bad = kills.Trainings(tmp_path).attempt(drawn(0, 1))
    assert not bad
    assert reached != "not killed"


def test_memory_and_handles_stay_flat(files, monkeypatch):
    monkeypatch.setattr(flat, "WARM", 5)
    kinds, bad = attempts(flat.Cohort(files).attempt, range(12))
    assert not bad
    assert kinds["segmented"] >= 5


def test_mutants_are_other_programs():
    source = "def f(a: int) -> int:\n    if not a:\n        raise ValueError(1 + 2)\n    return a < 1 and a + 2\n"
    changes = [mutants.mutated(source, number) for number in range(len(list(mutants.changes(ast.parse(source)))))]
    assert {"a < 1 -> a <= 1", "a + 2 -> a - 2", "1 -> 2", "not a -> +a", "raise ValueError(1 + 2) -> pass"} < {
        change for _, change in changes
    }
    assert len({content for content, _ in changes}) == len(changes)


def test_earlier_survivors_are_where_they_were():
    for name, old, _ in mutants.EARLIER:
        assert (mutants.ROOT / "cggm_med" / name).read_text().count(old) == 1


@pytest.mark.parametrize(
    ("ended", "faults"),
    [
        (Ended(0, "done", 1, 100), []),
        (Ended(1, "DataError: a.nii is empty", 1, 100), []),
        (Ended(1, "unforeseen KeyError: 'a'", 1, 100), ["not foreseen"]),
        (Ended(1, "", 1, 100), ["exit code 1 without an error"]),
        (Ended(-9, "", 1, 100), ["ended by SIGKILL"]),
        (Ended(0, "", 6, 2**30), ["took 6.0 s", "took 1023 MiB more than allowed"]),
    ],
)
def test_what_is_wrong_with_how_a_command_ended(ended, faults):
    found = ended.faults(2**20)
    assert [fault.rpartition(" (")[0] for fault in found] == faults
