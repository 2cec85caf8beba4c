"""Cases that show the same are found by their voxels, their labels, or their pictures."""

import numpy as np
import pytest

from cggm_med.data.checks.identity import likeness, shared_content
from cggm_med.data.checks.judge import Measured

SIDES = {f"c{k}": "test" if k == 1 else "train" for k in range(8)}


def cohort(*, same=(), noise=0.0):
    """Eight cases whose pictures share an anatomy; of ``same`` the second repeats the first but for noise."""
    draw = np.random.default_rng(0)
    anatomy = draw.normal(0, 40, 1728)
    own = {f"c{k}": draw.normal(0, 15, 1728) for k in range(8)}
    if same:
        own[same[1]] = own[same[0]] + draw.normal(0, noise, 1728)
    return [
        Measured(id, {}, {"t1": (anatomy + of).round().tolist()}, {"t1": str(of.sum().round(6))})
        for id, of in own.items()
    ]


def kinds(found):
    return [(finding.kind.name, finding.case) for finding in found]


def test_patients_are_not_alike_but_for_what_all_share():
    alike = likeness([case.templates for case in cohort()])
    assert np.abs(alike - np.diag(np.diag(alike))).max() < 0.3
    assert np.diag(alike) == pytest.approx(1)
    assert not shared_content(cohort(), {}, SIDES, {})


def test_the_same_voxels_on_two_sides_are_asked_about_and_on_one_side_told():
    assert kinds(shared_content(cohort(same=("c0", "c1")), {}, SIDES, {})) == [("repeated_case_in_splits", "c0, c1")]
    assert kinds(shared_content(cohort(same=("c0", "c2")), {}, SIDES, {})) == [("repeated_case", "c0, c2")]


def test_a_rescan_is_asked_about_unless_it_is_said_to_be_of_the_same_patient():
    rescanned = cohort(same=("c0", "c1"), noise=4.0)
    assert kinds(shared_content(rescanned, {}, SIDES, {})) == [("similar_case_in_splits", "c0, c1")]
    assert not shared_content(rescanned, {"c0": "p", "c1": "p"}, SIDES, {})
    assert not shared_content(cohort(same=("c0", "c2"), noise=4.0), {}, SIDES, {})  # neither is held out


def test_a_label_of_another_case_is_told_unless_the_images_are_the_same_too():
    drawn = {"c0": "x", "c1": "y", "c5": "x"}
    assert kinds(shared_content(cohort(), {}, SIDES, drawn)) == [("repeated_label", "c0, c5")]
    assert kinds(shared_content(cohort(same=("c0", "c5")), {}, SIDES, drawn)) == [("repeated_case", "c0, c5")]
