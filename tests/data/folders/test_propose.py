"""Which reader is taken, told by what lies in a folder, and what is told where none fits."""

import pytest

from cggm_med.data.folders.propose import propose, read_any
from cggm_med.data.patients import patient_of
from cggm_med.errors import DataError

NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii"}
DECLARED = {"modalities": {"ct": "ct"}, "labels": {"1": "lesion"}, "training": [{"id": "a", "ct": "a.nii"}]}


def test_the_name_of_a_folder_says_nothing(files):
    for name in ("Dataset001_Task", "BIDS", "x"):
        folder = files("imagesTr/a_0000.nii", "labelsTr/a.nii", content=NNUNET, folder=name)
        assert propose(folder).kind == "nnunet_v2"


def test_the_only_data_set_below_a_folder_is_meant(files):
    files("imagesTr/a_0000.nii", "labelsTr/a.nii", content=NNUNET, folder="raw/one")
    root = files(content={"a": 1}, name="about.json", folder="raw")
    assert propose(root).path == root / "one/dataset.json"
    assert propose(root.parent).path == root / "one/dataset.json"
    files("imagesTr/a_0000.nii", content=NNUNET, folder="raw/two")
    with pytest.raises(DataError, match="holds several data sets; give one of them:\n.*one.*\n.*two"):
        propose(root)


def test_a_list_below_a_folder_is_not_meant_where_scans_lie_beside_it(files):
    files("imagesTr/a_0000.nii", "labelsTr/a.nii", content=NNUNET, folder="raw/old")
    root = files(*(f"p{k}/{name}.nii" for k in range(3) for name in ("flair", "t1", "lesion_mask")), folder="raw")
    assert propose(root).path == root


def test_a_declared_list_is_read_and_never_proposed(files):
    folder = files("a.nii", content=DECLARED)
    declaration, cases = read_any(folder, need_labels=False)
    assert (list(declaration.modalities), [case.id for case in cases.cases]) == (["ct"], ["a"])
    with pytest.raises(DataError, match="a: no label"):
        read_any(folder)
    with pytest.raises(DataError, match="is a declared list already"):
        propose(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [({"a": 1}, "lists no cases in a way that is known"), ([1], "lists no cases"), ("{", "is not JSON: line 1")],
)
def test_a_list_of_unknown_kind_is_refused(files, content, message):
    folder = files(content=content)
    for path in (folder, folder / "dataset.json"):
        with pytest.raises(DataError, match=message):
            propose(path)


def test_several_lists_and_none_are_told(files):
    with pytest.raises(DataError, match="absent does not exist"):
        propose(files("x.nii") / "absent")
    for name in ("a.json", "b.json"):
        folder = files(content={"training": [{"image": "a.nii"}]}, name=name)
    with pytest.raises(DataError, match="holds several lists of cases; give one of them:\n.*a.json\n.*b.json"):
        propose(folder)


def test_ids_can_be_names_of_files_and_stay_different(files):
    paths = [
        f"{place}/{name}.nii"
        for place in ("Site A/1", "Site A/2", "Site B/1")
        for name in ("flair", "t1", "lesion_mask")
    ]
    found = propose(files(*paths))
    ids = [case.id for case in found.cases]
    assert len(set(ids)) == 3
    assert not any("/" in id for id in ids)
    assert {len(case.images) for case in found.cases} == {2}


@pytest.mark.parametrize(
    ("id", "patient"),
    [
        ("sub-01_ses-pre1", "sub-01"),
        ("x_2003-03-23", "x"),
        ("x_20030323", "x"),
        ("x_23.03.2003_visit2", "x"),
        ("A-MEN-00402-1", "A-MEN-00402"),
        ("A-0123_FU016d", "A-0123"),
        *(
            (id, id)
            for id in ("BraTS2021_00012", "site-2019-001", "case_001", "A-0402-1", "Brats18_2013_2_1", "20030323")
        ),
    ],
)
def test_visits_and_dates_are_not_part_of_a_patient(id, patient):
    assert patient_of(id) == patient
