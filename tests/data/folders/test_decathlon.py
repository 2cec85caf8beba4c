"""Lists in the manner of the Medical Segmentation Decathlon."""

import numpy as np
import pytest

from cggm_med.data.cases import ImageFile
from cggm_med.data.folders.propose import propose, read_any
from cggm_med.errors import DataError

LIST = {
    "name": "Prostate",
    "modality": {"0": "T2", "1": "ADC"},
    "labels": {"0": "background", "1": "PZ", "2": "TZ"},
    "training": [{"image": "./imagesTr/p_10.nii.gz", "label": "./labelsTr/p_10.nii.gz"}],
    "test": ["./imagesTs/p_11.nii.gz"],
}
FILES = ("imagesTr/p_10.nii.gz", "labelsTr/p_10.nii.gz", "imagesTs/p_11.nii.gz")


def test_modalities_are_channels_of_one_file(files):
    files(*FILES, voxels=np.zeros((3, 2, 2, 2), np.int16))
    folder = files("labelsTr/p_10.nii.gz", "imagesTr/._p_10.nii.gz", "imagesTr/p_12.nii.gz", content=LIST)
    found = propose(folder)
    assert (found.kind, found.name, found.questions) == ("decathlon", "Prostate", ())
    training, test = found.cases
    assert training.images == {name: ImageFile(folder / FILES[0], k) for k, name in enumerate(("T2", "ADC"))}
    assert (training.label, test.label) == (folder / FILES[1], None)
    assert sorted(found.left_out) == ["AppleDouble twin, no image", "not named by the list"]
    declaration, cases = read_any(folder)
    assert (declaration.regions, declaration.exclusive) == (("PZ", "TZ"), True)
    assert cases.sections == {"training": ("p_10",), "test": ("p_11",)}


def test_one_modality_is_a_file_without_channels(files):
    folder = files(*FILES, content={**LIST, "modality": {"0": "CT"}})
    assert propose(folder).cases[0].images == {"CT": ImageFile(folder / FILES[0])}


def test_numbers_that_share_a_meaning_are_one_region(files):
    labels = {"0": "background", "1": "kidney", "2": "kidney", "3": "tumour"}
    declaration, _ = read_any(files(*FILES, content={**LIST, "modality": ["CT"], "labels": labels}))
    assert next(iter(declaration.conventions.values())).regions == {"kidney": (1, 2), "tumour": (3,)}


def test_several_images_of_one_declared_modality_get_names_and_a_question(files):
    content = {
        **LIST,
        "modality": {"0": "FLAIR"},
        "training": [{"id": n, "image": [f"{n}/first.nii", f"{n}/second.nii"], "label": f"{n}/l.nii"} for n in "ab"],
        "test": [],
    }
    folder = files(*(f"{n}/{name}.nii" for n in "ab" for name in ("first", "second", "l")), content=content)
    found = propose(folder)
    assert [case.id for case in found.cases] == ["a", "b"]
    assert found.cases[0].images == {
        "FLAIR 1": ImageFile(folder / "a/first.nii"),
        "FLAIR 2": ImageFile(folder / "a/second.nii"),
    }
    (question,) = found.questions
    assert "FLAIR 1, FLAIR 2 in the order of a/first.nii, a/second.nii" in question
    content["training"][1]["image"] = ["b/first.nii"]
    assert "training[1] lists 1 images" not in propose(files(content=content)).refusals  # one 4-D file


def test_files_are_found_packed_or_not_and_missing_ones_are_named(files):
    folder = files(FILES[0], FILES[1][:-3], content=LIST)
    found = propose(folder)
    assert found.cases[0].label == folder / "labelsTr/p_10.nii"
    (refusal,) = found.refusals
    assert refusal.startswith("1 files that dataset.json names do not exist: test[0]: ./imagesTs/p_11.nii.gz; copy")
    with pytest.raises(DataError, match="leaves open what only you know"):
        read_any(folder)


def test_an_empty_list_is_refused(files):
    with pytest.raises(DataError, match="lists no case"):
        propose(files(content={**LIST, "training": [], "test": []}))
