"""MONAI's datalists and Auto3DSeg's tasks."""

import pytest

from cggm_med.data.cases import ImageFile
from cggm_med.data.folders.propose import propose, read_any
from cggm_med.errors import DataError

CASES = ("p7", "p8")
NAMES = ("flair", "t1ce", "seg")


def listed(*keys):
    """Entries of two cases, whose images stand under these keys or all of them in a list under ``image``."""
    entries = []
    for fold, id in enumerate(CASES):
        images = [f"d/{id}/{id}_{name}.nii.gz" for name in NAMES[:2]]
        entry = dict(zip(keys, images, strict=True)) if keys else {"image": images}
        entries.append({"fold": fold, **entry, "label": f"d/{id}/{id}_seg.nii.gz"})
    return {"training": entries}


@pytest.fixture
def folder(files):
    return files(*(f"d/{id}/{id}_{name}.nii.gz" for id in CASES for name in NAMES))


def test_images_in_a_list_are_named_after_their_files_as_a_question(files, folder):
    files(content=listed(), name="folds.json")
    found = propose(folder / "folds.json")
    assert (found.kind, found.name, found.sections) == ("monai_datalist", "folds", None)
    assert [(case.id, case.fold) for case in found.cases] == [("p7", "0"), ("p8", "1")]
    assert list(found.modalities) == ["flair", "t1ce"]
    assert found.cases[1].images["t1ce"] == ImageFile(folder / "d/p8/p8_t1ce.nii.gz")
    assert "the list gives none; the names of the files suggest flair, t1ce" in found.questions[0]
    with pytest.raises(DataError, match="what the numbers of the labels mean"):
        read_any(folder)  # the only list in the folder


def test_keys_are_names(files, folder):
    files(content={**listed("flair", "t1ce"), "labels": {"0": "background", "1": "lesion"}}, name="folds.json")
    declaration, cases = read_any(folder)
    assert list(declaration.modalities) == ["flair", "t1ce"]
    assert [case.fold for case in cases.cases] == ["0", "1"]


def test_a_single_image_of_which_nothing_is_said_is_asked_about(files):
    entries = [{"image": f"case_{k}/imaging.nii", "label": f"case_{k}/segmentation.nii"} for k in (1, 2)]
    paths = [path for entry in entries for path in entry.values()]
    found = propose(files(*paths, content={"training": entries}, name="list.json") / "list.json")
    assert [case.id for case in found.cases] == ["case_1", "case_2"]
    assert len(found.questions) == 1


def test_auto3dseg_names_what_each_key_shows_and_groups_numbers(files, folder):
    entries = listed("image", "image2")["training"]
    del entries[0]["label"]
    files(content={"testing": entries[:1], "training": entries[1:]}, name="folds.json")
    task = (
        "modality: MRI\ndataroot: /data/of/another/machine\ndatalist: folds.json\n"
        "class_names:\n  - {name: organ, index: [1, 2]}\n  - {name: mass, index: [2]}\n"
        "sigmoid: true\nextra_modalities: {image2: pet}\n"
    )
    files(content=task, name="input.yaml")
    for path in (folder, folder / "input.yaml"):
        declaration, cases = read_any(path)
        assert cases.layout == "auto3dseg"
        assert {name: modality.kind for name, modality in declaration.modalities.items()} == {
            "image": "mri",
            "image2": "pet",
        }
        (convention,) = declaration.conventions.values()
        assert (convention.regions, convention.exclusive) == ({"organ": (1, 2), "mass": (2,)}, False)
        assert convention.meanings == {1: "organ without mass", 2: "mass"}
        assert cases.sections == {"test": ("p7",), "training": ("p8",)}
        assert [case.fold for case in cases.cases] == ["0", "1"]


def test_names_of_classes_count_from_1_and_keys_without_a_name_are_asked_about(files, folder):
    files(content=listed("image", "other"), name="folds.json")
    files(content="modality: CT\ndatalist: folds.json\nclass_names: [tumor, node]\n", name="input.yml")
    found = propose(folder)
    assert found.labels[""].meanings == {1: "tumor", 2: "node"}
    assert found.modalities["image"].normalisation == "training_statistics"
    assert ["'other'" in question for question in found.questions] == [True]


def test_several_images_under_one_key_of_auto3dseg_are_named_after_their_files(files, folder):
    files(content=listed(), name="folds.json")
    files(content="modality: mri\ndatalist: folds.json\nclass_names: [lesion]\n", name="input.yaml")
    found = propose(folder)
    assert {name: modality.shows for name, modality in found.modalities.items()} == {"flair": "flair", "t1ce": "t1ce"}
    assert len(found.questions) == 1


def test_entries_that_cannot_be_understood_are_refused(files, folder):
    content = listed("flair", "t1ce")
    content["training"] += [{"flair": "d/p7/p7_flair.nii.gz", "label": ["a.nii", "b.nii"]}, {"fold": 1}]
    files(content=content, name="list.json")
    first, second = propose(folder / "list.json").refusals
    assert first == "training[2] lists several files under 'label'; expected one label map"
    assert second.startswith("training[3] names no image")


def test_images_of_an_object_have_its_keys(files, folder):
    content = listed("flair", "t1ce")
    for entry in content["training"]:
        entry["image"] = {name: entry.pop(name) for name in ("flair", "t1ce")}
    files(content=content, name="list.json")
    first = propose(folder / "list.json").cases[0]
    assert {name: image.path.name for name, image in first.images.items()} == {
        "flair": "p7_flair.nii.gz",
        "t1ce": "p7_t1ce.nii.gz",
    }


def test_a_list_of_which_nothing_is_understood_says_what_was_expected(files, folder):
    files(content={"training": [{"fold": 1}, {"scan": 3}]}, name="list.json")
    with pytest.raises(
        DataError, match=r"no case that can be understood:\n *training\[0\] names no image; expected such"
    ):
        propose(folder / "list.json")


def test_a_list_without_sections_holds_training_cases(files, folder):
    files(content=listed("flair", "t1ce")["training"], name="list.json")
    assert [case.id for case in propose(folder / "list.json").cases] == ["p7", "p8"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("datalist: absent.json\n", "datalist absent.json does not exist"),
        ("datalist: [\n", "is not YAML"),
        ("modality: CT\n", "expected the key 'datalist'"),
        ("datalist: folds.json\nclass_names: 3\n", '"class_names" is 3'),
    ],
)
def test_what_is_wrong_with_a_task_is_told_in_one_line(files, folder, content, message):
    files(content=listed(), name="folds.json")
    files(content=content, name="input.yaml")
    with pytest.raises(DataError, match=message) as caught:
        propose(folder / "input.yaml")
    assert "\n" not in str(caught.value)
