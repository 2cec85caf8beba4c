"""A part of the catalogue, which ``benchmarks/faults.py`` measures as a whole: found by every command that can."""

import numpy as np
import pytest

from cggm_med.data.volumes.phantom.cases import make_case
from faults.catalogue import FAULTS, SEG
from faults.commands import Cohort

SHAPE, SPACING = (40, 40, 26), 6.0
SEED = 3
# One for each thing that is looked at; what is hard to tell is measured, not tested.
SURE = (
    "images exchanged",
    "one image given twice",
    "image of another patient",
    "image mirrored",
    "image constant",
    "numbers wrapped",
    "every second slice empty",
    "third of an image missing",
    "half of the head missing",
    "skull left on",
    "everything upside down",
    "size in centimetres",
    "label mirrored",
    "label empty",
    "label number unknown",
    "case twice, as float",
)


def phantom_case(seed, index):
    affine = np.diag([-SPACING, -SPACING, SPACING, 1.0])
    case = make_case(seed, index, SHAPE, SPACING)
    return {**{m: (volume, affine) for m, volume in case.images.items()}, SEG: (case.labels, affine)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return Cohort.of(tmp_path_factory.mktemp("faults"), {f"c{k}": phantom_case(SEED, k) for k in range(9)})


def test_the_catalogue_is_large_enough():
    assert len(FAULTS) >= 30
    assert all(
        {fault.train, fault.predict, fault.evaluate} <= {"stopped", "told", "nothing"} for fault in FAULTS.values()
    )


def test_sound_cases_pass_every_command(cohort):
    for index in (20, 21):
        scans = phantom_case(SEED, index)
        answers = [cohort.train("new", scans), cohort.evaluate("new", scans), cohort.predict("new", scans)]
        assert [answer.kinds for answer in answers] == [(), (), ()]


@pytest.mark.parametrize("name", SURE)
def test_a_fault_is_found(cohort, name):
    fault, draw = FAULTS[name], np.random.default_rng(1)
    if fault.again:
        faulty = fault.change(phantom_case(SEED, 0), phantom_case(SEED, 1), draw)
        assert cohort.train("again", faulty, side="test").outcome == fault.train
        return
    faulty = fault.change(phantom_case(SEED, 20), phantom_case(SEED, 21), draw)
    answer = cohort.train("faulty", faulty)
    assert answer.outcome != "nothing", answer
    if fault.predict != "nothing":
        assert cohort.predict("faulty", faulty).outcome != "nothing"


def test_what_files_cannot_tell_is_not_guessed(cohort):
    fault, draw = FAULTS["everything left to right"], np.random.default_rng(1)
    faulty = fault.change(phantom_case(SEED, 20), phantom_case(SEED, 21), draw)
    assert cohort.train("faulty", faulty).outcome == "nothing"
