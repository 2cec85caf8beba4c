"""What the files of a proposal add: grids, label values, and what of them nobody declared."""

import numpy as np
import pytest

from cggm_med.data.folders.inspection import inspect_proposal
from cggm_med.data.folders.overview import lines, tables
from cggm_med.data.folders.propose import propose, read_any
from cggm_med.errors import DataError

THICK = np.diag([1.0, 1.0, 3.0, 1.0])
LABELS = {"background": 0, "lesion": 1, "scar": 2}


@pytest.fixture
def pair(files):
    """A function that writes two cases with T2 and ADC, the label on the grid of one of them or its own."""

    def write(label_affine=THICK, labels=LABELS, values=(0, 1, 1, 2), kinds=("T2", "ADC"), adc_affine=None):
        content = {
            "channel_names": dict(enumerate(kinds)),
            "labels": labels,
            "file_ending": ".nii",
        }
        volume = np.zeros((3, 2, 2), np.float32)
        volume[0].flat = values
        for id in "ab":
            files(f"imagesTr/{id}_0000.nii", affine=THICK)
            files(f"imagesTr/{id}_0001.nii", affine=np.eye(4) if adc_affine is None else adc_affine)
            files(f"labelsTr/{id}.nii", voxels=volume, affine=label_affine)
        return files(content=content)

    return write


def test_voxels_of_each_label_value_are_counted(pair):
    found = inspect_proposal(propose(pair(adc_affine=THICK)))
    assert found.voxels == {"a": {1: 2, 2: 1}, "b": {1: 2, 2: 1}}
    assert found.counts() == {1: (4, 2), 2: (2, 2)}
    assert (found.proposal.questions, found.proposal.reference) == ((), None)


def test_where_grids_differ_that_of_the_labels_is_proposed_and_asked_about(pair):
    folder = pair()
    found = inspect_proposal(propose(folder)).proposal
    assert found.reference == "T2"
    (question,) = found.questions
    assert "2 of 2 cases" in question
    assert "ADC would be resampled to T2" in question
    with pytest.raises(DataError, match="grid to resample to"):
        read_any(folder)
    assert read_any(folder, reference=("ADC",))[0].reference == "ADC"
    assert read_any(folder, reference=("diffusion", "adc"))[0].reference == "ADC", "by what it shows"
    with pytest.raises(DataError, match="grid to resample to"):
        read_any(folder, reference=("t1",))


def test_labels_on_no_image_leave_the_grid_open(pair):
    found = inspect_proposal(propose(pair(np.diag([2.0, 2.0, 2.0, 1.0])))).proposal
    assert found.reference is None
    (question,) = found.questions
    assert 'name one as "reference": T2, ADC' in question


def test_a_label_on_another_grid_than_all_images_is_named(pair, files):
    folder = pair(adc_affine=THICK)
    files("labelsTr/b.nii", voxels=np.zeros((4, 2, 2), np.uint8), affine=THICK)
    (question,) = inspect_proposal(propose(folder)).proposal.questions
    assert question.startswith("labels on no image's grid: case b (4 x 2 x 2 against 3 x 2 x 2 of T2)")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0, 1, 7, 7), "label value 7 in case a, b (4 voxels): nothing says what it means"),
        ((0, 1, 0.5, 0), "labels of case a, b hold 0.5; expected whole numbers"),
        ((0, 1, -1, 0), "labels of case a, b hold -1; expected whole numbers"),
    ],
)
def test_values_that_nobody_declared_are_asked_about(pair, values, said):
    (question,) = inspect_proposal(propose(pair(adc_affine=THICK, values=values))).proposal.questions
    assert question.startswith(said)


def test_meanings_are_never_guessed(files):
    volume = np.zeros((3, 2, 2), np.uint8)
    volume[0, 0] = (1, 4)
    files("a_seg.nii", voxels=volume)
    folder = files("a_flair.nii", content={"training": [{"flair": "a_flair.nii", "label": "a_seg.nii"}]}, name="l.json")
    found = inspect_proposal(propose(folder)).proposal
    assert found.labels[""].meanings == {1: "?", 4: "?"}
    assert found.questions == ("what 1, 4 mean: no file says it",)


def test_published_meanings_are_proposed_and_asked_about(files):
    volume = np.zeros((3, 2, 2), np.uint8)
    volume[0, 0] = (1, 4)
    entries = [{"image": f"BraTS2021_0000{k}_t1ce.nii", "label": f"BraTS2021_0000{k}_seg.nii"} for k in (1, 2)]
    for entry in entries:
        files(*entry.values(), voxels=volume)
    found = inspect_proposal(propose(files(content={"training": entries}, name="l.json"))).proposal
    assert found.labels[""].meanings[4] == "enhancing tumour"
    assert "what 1, 4 mean: l.json does not say it; the cases' names suggest BraTS 2017 to 2021" in found.questions[1]


def test_files_that_cannot_be_used_are_named(pair, files):
    folder = pair(adc_affine=THICK)
    (folder / "imagesTr/a_0000.nii").write_bytes(b"no image")
    files("imagesTr/b_0001.nii", voxels=np.zeros((3, 2, 2, 5), np.int16), affine=THICK)
    (question,) = inspect_proposal(propose(folder)).proposal.questions
    assert question.startswith("case a: ")
    assert "1 more such files: mend them" in question


def test_pictures_are_no_volumes(pair, files):
    folder = pair(adc_affine=THICK)
    for id in "ab":
        files(f"imagesTr/{id}_0000.nii", voxels=np.zeros((3, 2), np.int16))
    (question,) = inspect_proposal(propose(folder)).proposal.questions
    assert "is a picture of 3 x 2; expected a volume" in question


def test_exchanged_ct_and_another_image_are_seen(pair, files):
    folder = pair(adc_affine=THICK, kinds=("CT", "PET"))
    files("imagesTr/a_0001.nii", voxels=np.full((3, 2, 2), -1000, np.int16), affine=THICK)
    found = inspect_proposal(propose(folder)).proposal
    assert found.questions == ("whether CT and PET are exchanged: in case a, PET looks like CT",)
    assert "hardly CT in Hounsfield units" in found.notes[0]


def test_the_overview_tells_kinds_counts_and_what_is_lacking(pair):
    folder = pair(adc_affine=THICK)
    (folder / "imagesTr/b_0001.nii").rename(folder / "imagesTr/b_0009.nii")
    found = inspect_proposal(propose(folder))
    shown = {table.title: table.rows for table in tables(found)}
    assert shown["modalities"] == (
        ("T2", "t2", "mri", "z_score", "2 of 2"),
        ("ADC", "adc", "map", "keep_scale", "1 of 2"),
    )
    assert shown["grids"] == (("T2, ADC, label", "3x2x2", "1x1x3", "RAS"),)
    assert shown["labels"] == (("1", "lesion", "-", "4", "2"), ("2", "scar", "-", "2", "2"))
    assert shown["lacking"] == (("ADC", "1", "b"),)
    assert shown["left out"] == (("not named by the list", "1", "imagesTr/b_0009.nii"),)
    assert list(lines(found))[1] == "2 cases of 2 patients, 2 with a label"


def test_slices_of_a_scan_are_asked_about(files):
    names = [f"P{who}_slice_{k}" for who in (1, 2) for k in (1, 2)]
    folder = files(*(f"{name}_T2.nii" for name in names), voxels=np.arange(6, dtype=np.int16).reshape(3, 2, 1))
    files(*(f"{name}_mask.nii" for name in names), voxels=np.ones((3, 2, 1), np.uint8))
    found = inspect_proposal(propose(folder)).proposal
    assert len({case.patient for case in found.cases}) == 2
    assert any("one voxel thick, are slices of one scan" in question for question in found.questions)
