"""What is odd about a case beside others does not depend on their units, and never on one of them alone."""

from dataclasses import replace

import numpy as np
import pytest

from cggm_med.data.checks.judge import (
    CRITERIA,
    LABEL_GAIN,
    Measured,
    alone,
    among,
    beside,
    label_gains,
    with_margins,
)
from cggm_med.data.checks.kinds import KINDS
from cggm_med.data.checks.typical import Typical, typical

STRIPPED, WITH_SKULL = {"rim": 0.02, "still": 1.0}, {"rim": 0.5, "still": 0.6}
PLAIN = {"volume": 7.0, "extent_x": 4.9, "extent_y": 5.1, "extent_z": 4.9, "t1.scale": 2.5, "t1.inside": 1.0}


def case(id, **changes):
    """A sound case, some of whose numbers are others."""
    draw = np.random.default_rng(sum(map(ord, id)))
    numbers = {name: value + 0.03 * draw.normal() for name, value in PLAIN.items()}
    return Measured(id, {**numbers, **{n.replace("_in_", "."): v for n, v in changes.items()}}, {}, {"t1": id})


def content(cases):
    return [{"numbers": of.numbers, "templates": of.templates} for of in cases]


def found_in(*odd):
    cases = [*(case(f"c{k}") for k in range(9)), *odd]
    return [(finding.kind.name, finding.case, finding.roles) for finding in among(cases, typical(content(cases)))]


def test_sound_cases_have_no_finding():
    assert found_in() == []
    assert not [finding for k in range(9) for finding in alone(case(f"c{k}"))]


@pytest.mark.parametrize(
    ("changes", "kind", "roles"),
    [
        ({"volume": 7.0 + 3 * np.log(0.5), "extent_x": 4.9 + np.log(0.5)}, "unusual_size", ()),
        ({"t1_in_scale": 5.5}, "bright_beyond_training", ("t1",)),
        ({"t1_in_inside": 0.5}, "partly_missing", ("t1",)),
        ({"t1_in_scale": -6.0}, "unlike_training", ("t1",)),  # as bright as its background, which is no factor
    ],
)
def test_a_case_that_stands_out_is_found_wherever_it_stands(changes, kind, roles):
    assert found_in(case("odd", **changes)) == [(kind, "odd", roles)]
    usual = with_margins(typical(content([case(f"c{k}") for k in range(9)])), [case(f"c{k}") for k in range(9)])
    assert [f.kind.name for f in beside(case("odd", **changes), usual)] == [kind]
    assert beside(case("sound"), usual) == []


@pytest.mark.parametrize(("others", "odd"), [(STRIPPED, WITH_SKULL), (WITH_SKULL, STRIPPED)])
def test_a_skull_among_heads_without_and_the_reverse_is_told_as_that_and_nothing_else(others, odd):
    held = [
        Measured(f"c{k}", {**case(f"c{k}").numbers, **of}, {}, {"t1": f"{k}", "t2": f"other {k}"})
        for k, of in enumerate([others] * 9 + [{**odd, "volume": 9.0, "extent_x": 5.5}])
    ]
    found = among(held, typical(content(held)))
    assert [(finding.kind.name, finding.case, finding.kind.severity) for finding in found] == [("skull", "c9", "asked")]


def test_where_cases_differ_among_themselves_a_case_must_stand_out_more():
    sizes = [case(f"c{k}", extent_x=4.9 + 0.12 * k) for k in range(9)]
    assert among([*sizes, case("odd", extent_x=4.3)], typical(content(sizes))) == []


def test_few_cases_say_nothing_about_what_is_usual():
    few = [case("a"), case("b"), case("odd", t1_in_scale=5.5)]
    assert among(few, typical(content(few))) == []


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ({"t1.commonest": 0.9}, "flat_image"),
        ({"t1.top": 0.2}, "cut_off_values"),
        ({"t1.commonest": 0.7, "t1.top": 0.7, "t1.levels": 2.0}, "cut_off_values"),
        ({"t1.leaps": 0.1}, "leaping_values"),
        ({"t1.empty_slices": 0.5}, "empty_slices"),
        ({"t1.to_flip_x": 0.4}, "mirrored_image"),
        ({"t1.to_flip_x": -0.3, "t1.to_shift": 0.3}, "displaced_image"),
        ({"label.share": 0.0, "label.everywhere": 0.0}, "empty_label"),
        ({"label.share": 1.0, "label.everywhere": 1.0}, "full_label"),
        ({"label.share": 0.1, "label.flip_y": 0.6, "label.shift": 0.1}, "mirrored_label"),
        ({"label.share": 0.1, "label.flip_y": -0.6, "label.shift": 0.5}, "displaced_label"),
        ({"label.share": 0.1, "label.outside": 0.2}, "label_outside"),
    ],
)
def test_what_a_case_says_of_itself(numbers, kind):
    assert [f.kind.name for f in alone(Measured("a", numbers, {}, {"t1": "x"}))] == [kind]


def test_a_label_that_fits_elsewhere_is_odd_where_those_of_others_do_not():
    """Of nine others 0.15, 0.3 is above the least of 0.2 and 1.7 * 0.15 = 0.255; of nine 0.3, it is below 0.51."""
    for others, found in ((0.15, ["displaced_label"]), (0.3, [])):
        cases = [case(f"c{k}", label_in_share=0.1, label_in_shift=others) for k in range(9)]
        cases.append(case("odd", label_in_share=0.1, label_in_shift=0.3))
        gains = label_gains(cases)
        assert gains[-1] == pytest.approx(max(0.2, 1.7 * others))
        assert [finding.kind.name for finding in alone(cases[-1], gains[-1])] == found
        assert with_margins(typical(content(cases[:-1])), cases[:-1]).margins[LABEL_GAIN] == pytest.approx(gains[-1])
    assert label_gains(cases[:3]) == [None] * 3


def test_that_a_head_was_stripped_is_not_told_of_one_image():
    cases = [case(f"c{k}", **WITH_SKULL) for k in range(9)]
    usual = typical(content(cases))
    for images, found in (({"t1": "x"}, []), ({"t1": "x", "t2": "y"}, ["skull"])):
        stripped = replace(case("stripped", **STRIPPED), voxels=images)
        assert [f.kind.name for f in among([*cases, stripped], usual) if f.kind.name == "skull"] == found


def test_one_image_for_two_modalities_is_refused():
    (finding,) = alone(Measured("a", {}, {}, {"t1": "x", "t2": "y", "t1ce": "x"}))
    assert (finding.kind.severity, finding.roles) == ("refused", ("t1", "t1ce"))


def test_what_is_usual_goes_through_json():
    cases = [case(f"c{k}") for k in range(6)]
    usual = with_margins(typical(content(cases)), cases)
    assert Typical.from_json(usual.to_json()) == usual


def test_every_scorer_has_a_kind_and_a_least_score():
    assert set(CRITERIA) <= set(KINDS)
