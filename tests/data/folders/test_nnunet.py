"""nnU-Net's raw data sets: what ``dataset.json`` declares, whichever way the files lie."""

import json

import pytest

from cggm_med.data.cases import ImageFile
from cggm_med.data.folders.propose import propose, read_any
from cggm_med.data.volumes.labels import LabelConvention
from cggm_med.errors import DataError
from cggm_med.nnunet.export import dataset_json

TWO = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
ONE_CHANNEL = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 1}


def test_cases_are_told_by_their_files_and_may_lack_a_channel(files):
    folder = files(
        *("imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz", "imagesTr/a10_0000.nii.gz", "imagesTr/a9_0001.nii.gz"),
        *(
            "labelsTr/b.nii.gz",
            "labelsTr/a10.nii.gz",
            "labelsTr/a9.nii.gz",
            "imagesTs/c_0000.nii.gz",
            "labelsTs/c.nii.gz",
        ),
        *("imagesTr/._b_0000.nii.gz", "imagesTr/b_0002.nii.gz", "labelsTr/stray.nii.gz"),
        content=TWO,
    )
    found = propose(folder)
    assert (found.kind, found.name) == ("nnunet_v2", folder.name)
    assert {name: (m.kind, m.normalisation) for name, m in found.modalities.items()} == {
        "T2": ("mri", "z_score"),
        "ADC": ("map", "keep_scale"),
    }
    assert [case.id for case in found.cases] == ["a9", "a10", "b", "c"]
    assert found.lacking() == {"a9": ("T2",), "a10": ("ADC",), "c": ("ADC",)}
    assert found.cases[3].label == folder / "labelsTs/c.nii.gz"
    assert found.sections == {"training": ("a9", "a10", "b"), "test": ("c",)}
    assert {reason: [f.name for f in of] for reason, of in found.left_out.items()} == {
        "AppleDouble twin, no image": ["._b_0000.nii.gz"],
        "not named by the list": ["b_0002.nii.gz", "stray.nii.gz"],
    }
    declaration, cases = read_any(folder)
    assert declaration.regions == ("lesion",)
    assert cases.layout == "nnunet_v2"
    assert cases.cases[2].images["ADC"] == ImageFile(folder / "imagesTr/b_0001.nii.gz")


@pytest.mark.parametrize(
    ("ids", "patients"),
    [
        (["patient001_frame01", "patient001_frame12"], ["patient001", "patient001"]),
        (["10005_1000005", "10005_1000006"], ["10005", "10005"]),
        (["ms01_v1", "ms01_v2", "ms02_v1"], ["ms01", "ms01", "ms02"]),
        (["psma_95b8_2018-04-16", "psma_95b8_2018-10-01"], ["psma_95b8", "psma_95b8"]),
        (["case_1", "case_2"], ["case_1", "case_2"]),
    ],
)
def test_examinations_of_a_patient_are_told_by_their_ids(files, ids, patients):
    content = {**ONE_CHANNEL, "labels": {"background": 0, "x": 1}}
    folder = files(*(f"imagesTr/{id}_0000.nii.gz" for id in ids), content=content)
    assert [case.patient for case in propose(folder).cases] == patients


def test_the_images_of_a_data_set_alone_are_what_it_declares(files):
    folder = files(
        *("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"),
        *("imagesTs/b_0001.nii.gz", "imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz"),
        content=TWO,
    )
    declaration, cases = read_any(folder / "imagesTs", need_labels=False)
    assert [(case.id, list(case.images), case.labels) for case in cases.cases] == [
        ("b", ["ADC"], {}),
        ("c", ["T2", "ADC"], {}),
    ]
    assert (cases.cases[0].images["ADC"].path, declaration.regions) == (folder / "imagesTs/b_0001.nii.gz", ("lesion",))
    (folder / "dataset.json").unlink()  # then nothing tells what a number shows, yet whose image it is
    assert [case.id for case in propose(folder / "imagesTs").cases] == ["b_0001", "c_0000", "c_0001"]
    (folder / "imagesTs/b_0000.nii.gz").write_bytes((folder / "imagesTs/b_0001.nii.gz").read_bytes())
    assert {case.id: list(case.images) for case in propose(folder / "imagesTs").cases} == {
        "b": ["channel 0000", "channel 0001"],
        "c": ["channel 0000", "channel 0001"],
    }


def test_regions_are_painted_in_the_order_that_is_declared(files):
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4}
    found = propose(
        files(
            *("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
            content={**ONE_CHANNEL, "labels": labels, "regions_class_order": [1, 2, 3]},
        )
    ).labels[""]
    assert found.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert (found.paint, found.ignore, found.exclusive) == ({"whole": 1, "core": 2, "enhancing": 3}, 4, False)
    assert found.meanings == {1: "whole without core", 2: "core without enhancing", 3: "enhancing"}


def test_what_is_exported_is_read_back(files):
    brats = LabelConvention(
        "brats2021",
        {1: "necrotic core", 2: "oedema", 4: "enhancing tumour"},
        {"ET": (4,), "WT": (1, 2, 4), "TC": (1, 4)},
        {"WT": 2, "TC": 1, "ET": 4},
    )
    folder = files(
        *("imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz"),
        content=dataset_json(("flair",), [brats], 2),
    )
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    declaration, cases = read_any(folder)
    (convention,) = declaration.conventions.values()
    assert convention.meanings[2] == "oedema (2 in brats2021)"
    assert convention.regions == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}
    assert dict(convention.paint) == {"WT": 2, "TC": 1, "ET": 3}
    assert cases.sections == {"training": ("a",), "validation": ("b",)}


def test_a_dictionary_names_files_anywhere(files):
    files("cases/x/t2.nii.gz", "cases/x/seg.nii.gz")
    entry = {"images": ["../cases/x/t2.nii.gz"], "label": "../cases/x/seg.nii.gz"}
    content = {**ONE_CHANNEL, "labels": {"background": 0, "lesion": 1}, "dataset": {"P-00012-003": entry}}
    folder = files(content=content, folder="set")
    _, cases = read_any(folder)
    (case,) = cases.cases
    assert case.patient == "P-00012"
    assert case.label.samefile(folder.parent / "cases/x/seg.nii.gz")
    entry["images"] = ["/elsewhere/t2.nii.gz"]
    assert "P-00012-003: /elsewhere/t2.nii.gz" in propose(files(content=content, folder="set")).refusals[0]


@pytest.mark.parametrize("place", ["raw/D1/splits_final.json", "preprocessed/D1/splits_final.json"])
def test_a_case_has_the_fold_in_which_it_is_validated(files, place):
    names = [f"images{part}/{case}_0000.nii.gz" for part, case in (("Tr", "a"), ("Tr", "b"), ("Ts", "c"))]
    folder = files(*names, content={**ONE_CHANNEL, "labels": {"background": 0, "x": 1}}, folder="raw/D1")
    place = folder.parents[1] / place
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    assert [case.fold for case in propose(folder).cases] == ["1", "0", None]
    place.write_text(json.dumps([{"train": ["a"], "val": ["z"]}]))
    found = propose(folder)
    assert [case.fold for case in found.cases] == [None] * 3
    assert "cases that are not here, such as z" in found.notes[0]


@pytest.mark.parametrize(
    ("names", "expected", "asked"),
    [
        (["CT", "CT"], {"CT 1": "ct", "CT 2": "ct"}, "names for channels 0, 1"),
        (["CT", "noNorm"], {"CT": "ct", "noNorm": "map"}, "what the channel 'noNorm' shows"),
        (["T1 (post KM)"], {"T1 post KM": "mri"}, None),
    ],
)
def test_channels_keep_their_names_and_doubtful_ones_are_asked_about(files, names, expected, asked):
    content = {
        "channel_names": {str(k): name for k, name in enumerate(names)},
        "labels": {"background": 0, "x": 1},
        "file_ending": ".nii",
    }
    folder = files(*(f"imagesTr/a_{k:04d}.nii" for k in range(len(names))), "labelsTr/a.nii", content=content)
    found = propose(folder)
    assert {name: modality.kind for name, modality in found.modalities.items()} == expected
    assert [question[: len(asked or "")] for question in found.questions] == ([asked] if asked else [])
    if asked:
        with pytest.raises(DataError, match=f"leaves open what.*cggm-med init .*\n.*{asked}"):
            read_any(folder)


def test_a_task_of_version_1_lists_images_without_the_numbers_of_their_files(files):
    content = {
        "name": "Two",
        "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "core"},
        "training": [{"image": "./imagesTr/p_1.nii.gz", "label": "./labelsTr/p_1.nii.gz"}],
        "test": ["./imagesTs/p_2.nii.gz"],
    }
    images = [f"images{part}/p_{n}_000{k}.nii.gz" for part, n in (("Tr", 1), ("Ts", 2)) for k in (0, 1)]
    folder = files(*images, "labelsTr/p_1.nii.gz", content=content)
    found = propose(folder)
    assert (found.kind, found.name) == ("nnunet_v1", "Two")
    assert found.labels[""].meanings == {1: "edema", 2: "core"}
    assert found.cases[0].images == {
        "FLAIR": ImageFile(folder / "./imagesTr/p_1_0000.nii.gz"),
        "T1w": ImageFile(folder / "./imagesTr/p_1_0001.nii.gz"),
    }
    assert found.sections == {"training": ("p_1",), "test": ("p_2",)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_ending": ".nrrd"}, "no image CASE_0000.nrrd .* end with .*: correct file_ending"),
        ({"channel_names": {"1": "CT"}}, 'expected names by number from 0, such as {"0": "FLAIR"}'),
        ({"labels": {"background": 0, "a": "x"}}, '"labels" is .*expected names by number'),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "one number to several names"),
        ({"labels": {"a": [1, 2], "b": [2]}, "regions_class_order": [1]}, "has 1 numbers for 2 regions"),
    ],
)
def test_contradictions_are_told_in_one_line(files, change, message):
    content = {**ONE_CHANNEL, "labels": {"background": 0, "x": 1}, **change}
    with pytest.raises(DataError, match=message) as caught:
        propose(files("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", content=content))
    assert "\n" not in str(caught.value)


def test_pictures_are_refused(files):
    content = {**ONE_CHANNEL, "labels": {"background": 0, "x": 1}, "file_ending": ".png"}
    assert "stack the slices" in propose(files("imagesTr/a_0000.png", content=content)).refusals[0]
