"""Published label conventions: recognised by names alone, decided by the values of a cohort only between releases."""

import re
from pathlib import Path

import pytest

from cggm_med.data.declaration import Declaration
from cggm_med.data.folders.conventions import PUBLISHED, RELEASES, LabelledCase, conventions_of
from cggm_med.metrics.lesion_areas import LesionRules


def told(*cases, images=()):
    held = [(id, label, frozenset(values)) for id, label, values in cases]
    return conventions_of([LabelledCase(id, label, lambda of=of: of) for id, label, of in held], images)


@pytest.mark.parametrize("release", PUBLISHED, ids=lambda release: release.name)
def test_every_release_is_a_usable_convention_with_two_sources(release):
    declared = {"modalities": {"t1": "mri"}, **release.labels.to_json()}
    (convention,) = Declaration.from_json(declared, release.name).conventions.values()
    assert set(convention.meanings) == set(release.labels.meanings)
    assert len(release.labels.source.split(";")) >= 2
    assert not release.patient or re.compile(release.patient).groups == 1


@pytest.mark.parametrize(
    ("id", "values", "enhancing"),
    [
        ("BraTS2021_00002", {1, 2, 4}, 4),
        ("Brats18_TCIA10_103_1", {1, 2}, 4),
        ("BraTS20_Training_355", {4}, 4),
        ("BraTS-GLI-00000-000", {1, 2, 3}, 3),
        ("BraTS-GLI-00005-100", {1, 2, 3, 4}, 3),
        ("BraTS-SSA-00002-000", {1, 3}, 3),
        ("BraTS-PED-00001-000", {1, 2, 3, 4}, 1),
        ("BRATS_457", {1, 2, 3}, 3),
        ("brats_2013_pat0001_1", {1, 2, 3, 4}, 4),
    ],
)
def test_where_enhancing_tumour_is(id, values, enhancing):
    found = told((id, f"{id}/{id}_OTMultiClass.nii", values))
    assert found.questions == ()
    assert found.labels[""].regions["ET"] == (enhancing,)
    assert found.labels[""].meanings[enhancing] == "enhancing tumour"


def test_four_is_the_resection_cavity_after_treatment_and_no_part_of_the_tumour():
    labels = told(("BraTS-GLI-00005-100", "seg.nii", {4}), ("BraTS-GLI-00006-100", "seg.nii", {1, 2})).labels[""]
    assert (labels.meanings[4], labels.regions["RC"], 4 in labels.regions["WT"]) == ("resection cavity", (4,), False)


def test_values_of_the_whole_cohort_decide_between_releases():
    """Alone, the second case fits both releases, which read its numbers differently."""
    alone = told(("BraTS-PED-00002-000", "seg.nii", {1, 2, 3}))
    assert (alone.labels[""].meanings, alone.recognised) == ({}, True)
    assert "BraTS-PED 2023: 1 non-enhancing" in alone.questions[0]
    both = told(("BraTS-PED-00002-000", "seg.nii", {1, 2, 3}), ("BraTS-PED-00001-000", "seg.nii", {2, 4}))
    assert (both.labels[""].meanings[1], both.questions) == ("enhancing tumour", ())


def test_releases_side_by_side_keep_their_conventions_and_share_regions():
    found = told(("BraTS2021_00000", "a", {1, 2, 4}), ("BraTS-GLI-00003-000", "b", {1, 2, 3}))
    assert found.convention == {"BraTS2021_00000": "BraTS 2017 to 2021", "BraTS-GLI-00003-000": "BraTS 2023 GLI"}
    assert [of.regions["ET"] for of in found.labels.values()] == [(4,), (3,)]
    assert len({tuple(of.regions) for of in found.labels.values()}) == 1
    assert "several label conventions" in found.notes[0]
    cavity = told(("BraTS2021_00000", "a", {1, 2, 4}), ("BraTS-GLI-00003-100", "b", {1, 2, 3, 4}))
    assert {tuple(of.regions) for of in cavity.labels.values()} == {("WT", "TC", "ET")}
    assert "RC" in cavity.notes[1]


def test_new_names_with_old_numbers_are_asked_about():
    """Where a 4 occurs and no 3, it may be the enhancing tumour that it was until 2021."""
    old = ("BraTS-GLI-00005-000", "a", {1, 2, 4})
    found = told(old)
    assert (found.labels[""].meanings, found.recognised) == ({}, True)
    assert found.questions == (
        "what 4 means: resection cavity in BraTS 2024 GLI, after treatment, but no case has 3, enhancing tumour, which "
        "was 4 until 2021",
    )
    assert told(old, ("BraTS-GLI-00006-000", "a", {3})).questions == ()
    assert told(("BraTS-GLI-00005-100", "a", {1, 2, 4})).questions == (), "such time points are of 2024 alone"


@pytest.mark.parametrize(
    ("release", "dilations", "mm3"),
    [
        ("BraTS 2017 to 2021", 3, 50),
        ("BraTS 2023 GLI", 3, 50),
        ("BraTS-SSA", 3, 50),
        ("BraTS-MEN", 1, 50),
        ("BraTS-MET 2025", 1, 2),
        ("BraTS-PED 2023", 3, 50),
        ("BraTS-PED since 2024", 5, 10),
        ("BraTS 2024 GLI, after treatment", 3, 20),
        ("BraTS-MEN-RT 2024", 1, 50),
    ],
)
def test_lesions_are_those_of_the_challenge(release, dilations, mm3):
    """As in the scripts that score the challenges, which are cited beside the rules."""
    assert RELEASES[release].labels.lesion_rules == LesionRules(dilations=dilations, min_mm3=mm3)


def test_lesion_rules_that_differ_are_asked_about():
    glioma = ("BraTS2021_00000", "a", {1, 2, 4})
    assert told(glioma, ("BraTS-GLI-00003-000", "b", {1, 2, 3})).questions == ()
    (question,) = told(glioma, ("BraTS-MEN-00003-000", "b", {1, 2, 3})).questions
    assert question.startswith("which lesion rules hold for all: in BraTS 2017 to 2021, true voxels")
    assert "in BraTS-MEN, true voxels in one 26-connected part of the mask dilated once" in question


def test_a_patient_of_both_releases_is_one():
    found = told(
        ("BraTS2021_00003", "a", {1, 2, 4}),
        ("BraTS2021_00005", "a", {1, 2, 4}),
        ("BraTS-GLI-00003-000", "b", {1, 2, 3}),
    )
    assert found.patients == {"BraTS-GLI-00003-000": "BraTS-GLI-00003", "BraTS2021_00003": "BraTS-GLI-00003"}
    assert "also in BraTS 2023 GLI, by their number: 1" in found.notes[1]


def test_a_strange_number_in_some_cases_is_their_error_and_gets_no_meaning():
    others = [(f"BraTS-MET-0000{k}-000", "a", {1, 2, 3}) for k in range(3)]
    found = told(*others, ("BraTS-MET-01094-002", "b", {1, 3, 4, 6}))
    assert (6 in found.labels[""].meanings, found.labels[""].meanings[4]) == (False, "resection cavity")


def test_names_alone_do_not_make_a_data_set_of_another_a_known_one():
    foreign = told(("BRATS_HG0005", "OTMultiClass.nii", {1, 2, 3, 4, 5, 6, 7}))
    assert foreign.labels[""].meanings == {}
    assert foreign.questions[0].startswith("what 1, 2, 3, 4, 5, 6 and 7 in the labels mean")
    assert told(("013", "ground_truth.nii", {1}), images=["flair"]).labels[""].meanings == {}
    assert told(("013", "ground_truth.nii", {1}), images=["time01"]).labels[""].meanings == {1: "new MS lesion"}


def test_the_root_folder_says_nothing():
    """People rename it; a label is known by its own name and its case's."""
    assert told(("7", "ISLES-2022/x_msk.nii", {1})).recognised is False


def test_patients_of_cases_with_time_points():
    found = told(("BraTS-GLI-00008-000", "a", {1}), ("BraTS-GLI-00008-001", "b", {1}))
    assert set(found.patients.values()) == {"BraTS-GLI-00008"}


def test_known_and_unknown_cases_side_by_side_are_asked_about():
    found = told(("BraTS2021_00000", "a", {1, 2, 4}), ("P7", "b", {1}))
    assert (found.labels[""].meanings, found.recognised) == ({}, False)
    assert any("P7" in question for question in found.questions)


def test_the_page_of_layouts_lists_every_release_with_its_numbers():
    page = (Path(__file__).parents[3] / "docs/reference/layouts.md").read_text(encoding="utf-8")
    for of in PUBLISHED:
        numbers = ", ".join(f"{number} {meaning}" for number, meaning in of.labels.meanings.items())
        assert f"| {of.name} | {numbers} |" in page
