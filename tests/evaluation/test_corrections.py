"""Masks to a drawing program and back: what is written, what is refused, and that nothing old is touched."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
from helpers.declared_cohort import AFFINE, cohort

from cggm_med.data.folders.declared import read_declared
from cggm_med.data.folders.propose import propose
from cggm_med.errors import DataError, OutputError
from cggm_med.evaluation.corrections.hand_over import hand_over, worst_cases
from cggm_med.evaluation.corrections.take_back import take_back
from cggm_med.files import digest_of


def voxels(path):
    return np.asarray(nib.load(path).dataobj)


def redraw(path, change, affine=None):
    image = nib.load(path)
    array = voxels(path).copy()
    array = change(array)
    nib.save(nib.Nifti1Image(array, image.affine if affine is None else affine), path)


def lesion(array):
    array[0:2, 0:2, 0:2] = 2
    return array


@pytest.fixture
def handed(tmp_path):
    """Two cases whose masks are empty."""
    listed = cohort(tmp_path / "data", cases=3)
    declaration, found = read_declared(listed)
    (convention,) = declaration.conventions.values()
    chosen = []
    for case in found.cases[:2]:
        mask = tmp_path / "masks" / f"{case.id}.nii.gz"
        mask.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((20, 18, 8), np.uint8), AFFINE), mask)
        chosen.append((case, mask, convention))
    hand_over(tmp_path / "worst", chosen, {"p0": 0.1, "p1": 0.2}, data=listed, colours={"rim": "#102030"})
    return tmp_path / "worst"


def test_worst_cases_are_those_of_lowest_mean_dice_in_a_fixed_order():
    rows = [{"case": c, "dice": d} for c, d in (("b", 0.5), ("a", 0.5), ("c", 1.0), ("c", 0.2))]
    assert list(worst_cases(rows, 2)) == ["a", "b"]
    assert list(worst_cases(rows, 9)) == ["a", "b", "c"]


def test_a_case_has_its_images_its_label_and_a_mask_to_correct(handed, tmp_path):
    own = handed / "cases" / "p0"
    assert {path.name for path in own.iterdir()} == {"flair.nii.gz", "t1.nii.gz", "label.nii.gz", "mask.nii.gz"}
    assert (own / "t1.nii.gz").read_bytes() == (tmp_path / "data" / "t1" / "p0.nii.gz").read_bytes()
    label = voxels(tmp_path / "data" / "labels" / "p0.nii.gz")
    assert np.array_equal(voxels(own / "label.nii.gz"), label)
    # What nobody annotated stays so, though the mask says nothing of it.
    assert np.array_equal(voxels(own / "mask.nii.gz"), np.where(label == 9, 9, 0))
    assert np.allclose(nib.load(own / "mask.nii.gz").affine, AFFINE)


def test_both_programs_are_told_number_name_and_colour_of_each_label(handed):
    snap = (handed / "labels_itksnap.txt").read_text()
    row = r'^ *(\d+) +(\d+) +(\d+) +(\d+) +([01]) +([01]) +([01]) +"(.*)"$'  # of ITK-SNAP's own files
    found = {int(n): ((r, g, b), name) for n, r, g, b, *_, name in re.findall(row, snap, re.MULTILINE)}
    assert list(found) == [0, 1, 2, 9]
    assert found[1] == (("16", "32", "48"), "rim")
    table = (handed / "labels_slicer.ctbl").read_text().splitlines()
    assert table[0].startswith("# Color table file")
    rows = [line.split(" ") for line in table if not line.startswith("#")]
    assert [(n, name) for n, name, *_ in rows] == [
        ("0", "background"),
        ("1", "rim"),
        ("2", "core"),
        ("9", "not_annotated"),
    ]
    assert {int(n): tuple(colour) for n, _, *colour, _ in rows[1:]} == {n: rgb for n, (rgb, _) in found.items() if n}
    assert "-s mask.nii.gz -l ../../labels_itksnap.txt" in (handed / "how_to_open.txt").read_text()


def test_a_corrected_mask_becomes_the_label_and_nothing_old_is_touched(handed, tmp_path):
    old = {path: digest_of(path.read_bytes()) for path in (tmp_path / "data").rglob("*.*")}
    redraw(handed / "cases" / "p0" / "mask.nii.gz", lesion)
    found = take_back(handed, tmp_path / "new")
    # 8 voxels of 2 x 2 x 6 mm are 0.192 mL, by hand.
    (row,) = found.corrections[0].rows
    assert row["label"] == "2 core"
    assert (row["before_ml"], row["after_ml"], row["removed_ml"]) == (0, pytest.approx(0.192), 0)
    assert found.unchanged == ("p1",)
    declaration, cases = read_declared(tmp_path / "new")
    first, second, _ = cases.cases
    assert np.array_equal(voxels(first.label), voxels(handed / "cases" / "p0" / "mask.nii.gz"))
    assert second.label.resolve() == (tmp_path / "data" / "labels" / "p1.nii.gz").resolve()
    assert [case.images["flair"].path.resolve().parent for case in cases.cases] == [tmp_path / "data" / "flair"] * 3
    assert declaration == read_declared(tmp_path / "data")[0]
    assert {path: digest_of(path.read_bytes()) for path in old} == old
    assert (tmp_path / "new" / "changes.csv").read_text().startswith("case,label,before_ml")
    with pytest.raises(OutputError, match="already exists"):
        take_back(handed, tmp_path / "new")


def test_a_mask_saved_in_another_format_of_whole_numbers_is_taken(handed, tmp_path):
    mask = handed / "cases" / "p0" / "mask.nii.gz"
    array = lesion(voxels(mask).astype(np.float32))
    mask.unlink()
    nib.save(nib.Nifti1Image(array, AFFINE), mask.with_name("mask.nii"))
    assert take_back(handed, tmp_path / "new").corrections[0].id == "p0"
    assert nib.load(tmp_path / "new" / "labels" / "p0.nii.gz").get_data_dtype() == np.uint16


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda mask: redraw(mask, lambda a: np.where(a == 9, 7, a)), "it holds 7"),
        (lambda mask: redraw(mask, lesion, np.diag([2.0, 2.0, 3.0, 1.0])), "export it with an image of the case"),
        (lambda mask: redraw(mask, lambda a: a[:10]), "differ in shape: 10 x 18 x 8 and 20 x 18 x 8"),
        (lambda mask: mask.unlink(), "no file in .*p0; expected one, such as mask.nii.gz"),
        (lambda mask: mask.with_name("mask.nii").write_bytes(b""), "mask.nii, mask.nii.gz in"),
        (lambda mask: mask.write_bytes(mask.read_bytes()[:100]), "p0"),
        (lambda mask: (mask.parents[2] / "before" / "p0.nii.gz").write_bytes(b""), "is not what was handed over"),
    ],
)
def test_a_mask_that_cannot_be_a_label_is_refused_and_nothing_is_written(handed, tmp_path, spoil, said):
    redraw(handed / "cases" / "p1" / "mask.nii.gz", lesion)
    spoil(handed / "cases" / "p0" / "mask.nii.gz")
    with pytest.raises(DataError, match=said):
        take_back(handed, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_predictions_that_nobody_corrected_never_become_labels(handed, tmp_path):
    with pytest.raises(DataError, match="no mask differs from what was handed over"):
        take_back(handed, tmp_path / "new")


def test_a_folder_that_was_not_handed_over_is_refused(handed, tmp_path):
    with pytest.raises(DataError, match="it is not there"):
        take_back(tmp_path / "data", tmp_path / "new")
    record = json.loads((handed / "hand_over.json").read_text())
    record["cases"][0]["id"] = "../p0"
    (handed / "hand_over.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="hand_over.json cannot be read"):
        take_back(handed, tmp_path / "new")


def test_a_folder_of_a_published_layout_becomes_a_list(phantom, tmp_path):
    proposal = propose(phantom)
    (labels,) = proposal.labels.values()
    case = proposal.cases[0]
    hand_over(tmp_path / "worst", [(case, case.label, labels.convention())], {case.id: 0.5}, data=phantom, colours={})
    redraw(tmp_path / "worst" / "cases" / case.id / "mask.nii.gz", lambda a: np.roll(a, 1, 0))
    found = take_back(tmp_path / "worst", tmp_path / "new")
    assert [of.id for of in found.corrections] == [case.id]
    _, cases = read_declared(tmp_path / "new")
    assert len(cases.cases) == len(proposal.cases)
    assert cases.cases[0].label.resolve() == tmp_path / "new" / "labels" / f"{case.id}.nii.gz"
