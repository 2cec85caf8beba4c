"""Folders in which only names say what is what: other languages, orders, separators and letter cases, missing files."""

import itertools
import random

import numpy as np
import pytest

from cggm_med.data.declaration import Modality
from cggm_med.data.folders.any_names import read_names
from cggm_med.data.folders.propose import propose
from cggm_med.data.volumes.io import nifti_bytes


def paths(pattern, **values):
    """Paths of all combinations of values."""
    return [pattern.format(**dict(zip(values, of, strict=True))) for of in itertools.product(*values.values())]


def found(proposal):
    """By case: which file is which modality, and the label."""
    below = {
        case.id: {name: image.path.relative_to(proposal.path).as_posix() for name, image in case.images.items()}
        for case in proposal.cases
    }
    labels = {
        case.id: {} if case.label is None else {"label": case.label.relative_to(proposal.path).as_posix()}
        for case in proposal.cases
    }
    return {id: {**images, **labels[id]} for id, images in below.items()}


def shown(proposal):
    return {name: of.shows or name for name, of in proposal.modalities.items()}


# A folder as people keep it, and what the case of the key "first" is.
KINDS = {
    "what, then who, in one folder": (
        paths("{what}_{who}.nii.gz", what=["T1", "FLAIR"], who=["001", "002"])
        + paths("L:seg_{who}.nii.gz", who=["001", "002"]),
        ["001", "002"],
        {"T1": "T1_001.nii.gz", "FLAIR": "FLAIR_001.nii.gz", "label": "seg_001.nii.gz"},
    ),
    "a folder for each modality": (
        paths("{what}/{who}.nii", what=["t1", "T1c"], who=["P1", "P7"]) + paths("L:ROI/{who}.nii", who=["P1", "P7"]),
        ["P1", "P7"],
        {"t1": "t1/P1.nii", "T1c": "T1c/P1.nii", "label": "ROI/P1.nii"},
    ),
    "people's names": (
        paths("{who}-{what}.nii", who=["anna", "berta"], what=["t1", "flair"])
        + paths("L:{who}-maske.nii", who=["anna", "berta"]),
        ["anna", "berta"],
        {"t1": "anna-t1.nii", "flair": "anna-flair.nii", "label": "anna-maske.nii"},
    ),
    "numbers of series around the sequence": (
        paths("pat{who}/{what}.nii.gz", who=[11, 12], what=["3_t1_mprage_sag_300", "7_t2_tirm_tra_dark-fluid_700"])
        + paths("L:pat{who}/lesion_mask.nii.gz", who=[11, 12]),
        ["pat11", "pat12"],
        {
            "t1_mprage_sag": "pat11/3_t1_mprage_sag_300.nii.gz",
            "t2_tirm_tra_dark-fluid": "pat11/7_t2_tirm_tra_dark-fluid_700.nii.gz",
            "label": "pat11/lesion_mask.nii.gz",
        },
    ),
    "a folder for each series": (
        paths("MR{who}/{what}/image.nii", who=[11, 12], what=["03_t1_mprage", "07_FLAIR"])
        + paths("L:MR{who}/ROI/tumor.nii", who=[11, 12]),
        ["MR11", "MR12"],
        {"t1_mprage": "MR11/03_t1_mprage/image.nii", "FLAIR": "MR11/07_FLAIR/image.nii", "label": "MR11/ROI/tumor.nii"},
    ),
    "running numbers that mean nothing": (
        [
            *("1/X.MR_T1.70/X.MR_T1.70.nii", "1/X.MR_DWI.71/X.MR_DWI.71.nii", "L:1/X.OT.72/X.OT.72.nii"),
            *("2/X.MR_T1.73/X.MR_T1.73.nii", "2/X.MR_DWI.74/X.MR_DWI.74.nii", "L:2/X.OT.75/X.OT.75.nii"),
        ],
        ["1", "2"],
        {
            "T1": "1/X.MR_T1.70/X.MR_T1.70.nii",
            "DWI": "1/X.MR_DWI.71/X.MR_DWI.71.nii",
            "label": "1/X.OT.72/X.OT.72.nii",
        },
    ),
    "sites with the same numbers": (
        paths("{site}/{who}/{what}.nii", site=["Bern", "Graz"], who=["01", "02"], what=["T1", "FLAIR"])
        + paths("L:{site}/{who}/wmh_mask.nii", site=["Bern", "Graz"], who=["01", "02"]),
        ["Bern/01", "Bern/02", "Graz/01", "Graz/02"],
        {"T1": "Bern/01/T1.nii", "FLAIR": "Bern/01/FLAIR.nii", "label": "Bern/01/wmh_mask.nii"},
    ),
    "labels in a sibling tree, images in another format": (
        paths("images/{who}/{who}_{what}.mha", who=["A-1", "A-2"], what=["T2W", "ADC"])
        + paths("L:contours/final/{who}.nii.gz", who=["A-1", "A-2"]),
        ["A-1", "A-2"],
        {"T2W": "images/A-1/A-1_T2W.mha", "ADC": "images/A-1/A-1_ADC.mha", "label": "contours/final/A-1.nii.gz"},
    ),
    "capitals": (
        paths("PATIENT_{who}/T1_{what}.NII.GZ", who=[1, 2], what=["PRE", "POST"])
        + paths("L:PATIENT_{who}/SEG.NII.GZ", who=[1, 2]),
        ["PATIENT_1", "PATIENT_2"],
        {"T1_PRE": "PATIENT_1/T1_PRE.NII.GZ", "T1_POST": "PATIENT_1/T1_POST.NII.GZ", "label": "PATIENT_1/SEG.NII.GZ"},
    ),
    "sites with the same numbers, in the names of files": (
        paths("{site}/P{who}/P{who}_{what}.nii", site=["Bern", "Graz"], who=["01", "02"], what=["T1", "FLAIR"])
        + paths("L:{site}/P{who}/P{who}_mask.nii", site=["Bern", "Graz"], who=["01", "02"]),
        ["Bern/P01", "Bern/P02", "Graz/P01", "Graz/P02"],
        {"T1": "Bern/P01/P01_T1.nii", "FLAIR": "Bern/P01/P01_FLAIR.nii", "label": "Bern/P01/P01_mask.nii"},
    ),
    "sites and folders for what files show": (
        paths("{site}/{what}/{who}_{what}.nii", site=["best", "msseg"], who=[1, 2], what=["flair", "t1"])
        + paths("L:{site}/gt/{who}_gt.nii", site=["best", "msseg"], who=[1, 2]),
        ["best/1", "best/2", "msseg/1", "msseg/2"],
        {"flair": "best/flair/1_flair.nii", "t1": "best/t1/1_t1.nii", "label": "best/gt/1_gt.nii"},
    ),
    "other scripts": (
        paths("{who}/{what}.nii", who=["张伟", "李娜", "Łukasz"], what=["T1平扫", "T1增强"])
        + paths("L:{who}/标注.nii", who=["张伟", "李娜", "Łukasz"]),
        ["Łukasz", "张伟", "李娜"],
        {"T1平扫": "Łukasz/T1平扫.nii", "T1增强": "Łukasz/T1增强.nii", "label": "Łukasz/标注.nii"},
    ),
    "names that differ in an accent": (
        paths("{who}/{what}.nii", who=["Muller", "Müller"], what=["t1", "flair"])
        + paths("L:{who}/roi.nii", who=["Muller", "Müller"]),
        ["Muller", "Müller"],
        {"t1": "Muller/t1.nii", "flair": "Muller/flair.nii", "label": "Muller/roi.nii"},
    ),
    "names of BIDS in one folder": (
        paths("{who}_ses-1_{what}.nii", who=["sub-01", "sub-02"], what=["T1w", "FLAIR"])
        + paths("L:{who}_ses-1_mask.nii", who=["sub-01", "sub-02"]),
        ["sub-01_ses-1", "sub-02_ses-1"],
        {"T1w": "sub-01_ses-1_T1w.nii", "FLAIR": "sub-01_ses-1_FLAIR.nii", "label": "sub-01_ses-1_mask.nii"},
    ),
    "words and numbers in one": (
        paths("img/img{who}.nii", who=["0001", "0002"]) + paths("L:label/label{who}.nii", who=["0001", "0002"]),
        ["0001", "0002"],
        {"img": "img/img0001.nii", "label": "label/label0001.nii"},
    ),
    "a channel's number on images alone": (
        paths("images/F_{who}_0000.nii", who=["0001", "0002"]) + paths("L:labels/F_{who}.nii", who=["0001", "0002"]),
        ["F_0001", "F_0002"],
        {"image": "images/F_0001_0000.nii", "label": "labels/F_0001.nii"},
    ),
    "a time point that is called as a sequence": (
        paths("{who}/{time}/{who}_{time}_{what}.nii", who=["P1", "P2"], time=["T1", "T2"], what=["T1", "T2"])
        + paths("L:{who}/{time}/{who}_{time}_MASK.nii", who=["P1", "P2"], time=["T1", "T2"]),
        ["P1_T1", "P1_T2", "P2_T1", "P2_T2"],
        {"T1": "P1/T1/P1_T1_T1.nii", "T2": "P1/T1/P1_T1_T2.nii", "label": "P1/T1/P1_T1_MASK.nii"},
    ),
    "a series numbered 2": (
        paths("{who}/{what}/NIFTI/image.nii", who=["E1", "E2"], what=["1_T1", "2_T1GD"])
        + paths("L:{who}/5_MASK/NIFTI/MASK.nii", who=["E1", "E2"]),
        ["E1", "E2"],
        {"T1": "E1/1_T1/NIFTI/image.nii", "T1GD": "E1/2_T1GD/NIFTI/image.nii", "label": "E1/5_MASK/NIFTI/MASK.nii"},
    ),
    "a folder for each series, by its number": (
        [
            f"S{who}/SCANS/{number}/NIFTI/{what}.nii"
            for who in (1, 2)
            for number, what in (("3", "T1"), ("9", "T1c"), ("5", "T2"))
        ]
        + paths("L:S{who}/RESOURCES/segmentation/tumor_seg.nii", who=[1, 2]),
        ["S1", "S2"],
        {
            **{"T1": "S1/SCANS/3/NIFTI/T1.nii", "T1c": "S1/SCANS/9/NIFTI/T1c.nii", "T2": "S1/SCANS/5/NIFTI/T2.nii"},
            "label": "S1/RESOURCES/segmentation/tumor_seg.nii",
        },
    ),
    "labels in another branch of a case's folder": (
        paths("{who}/scans/{what}/files/{what}.nii", who=["S001", "S002"], what=["T1", "FLAIR"])
        + paths("L:{who}/assessors/{who}_SEG/files/lesion_mask.nii", who=["S001", "S002"]),
        ["S001", "S002"],
        {
            "T1": "S001/scans/T1/files/T1.nii",
            "FLAIR": "S001/scans/FLAIR/files/FLAIR.nii",
            "label": "S001/assessors/S001_SEG/files/lesion_mask.nii",
        },
    ),
    "names that recur and tell nothing, beside one that does": (
        paths("{who}/lgemri.nii", who=["0RZ", "1D7"]) + paths("L:{who}/laendo.nii", who=["0RZ", "1D7"]),
        ["0RZ", "1D7"],
        {"lgemri": "0RZ/lgemri.nii", "label": "0RZ/laendo.nii"},
    ),
    "numbers that count the images of a case": (
        paths("P{who}/{what}.nii", who=[0, 1, 2], what=["t2", "dwi_b50", "adc", "dce_1", "dce_2"])
        + paths("L:P{who}/tumor_mask.nii", who=[0, 1, 2]),
        ["P0", "P1", "P2"],
        {
            **{"t2": "P0/t2.nii", "dwi_b50": "P0/dwi_b50.nii", "adc": "P0/adc.nii"},
            **{"dce_1": "P0/dce_1.nii", "dce_2": "P0/dce_2.nii", "label": "P0/tumor_mask.nii"},
        },
    ),
    "numbers that count the visits of a patient": (
        paths("P{who}/{what}_{visit}.nii", who=[0, 1], what=["t2", "flair"], visit=[1, 2])
        + paths("L:P{who}/mask_{visit}.nii", who=[0, 1], visit=[1, 2]),
        ["P0/1", "P0/2", "P1/1", "P1/2"],
        {"t2": "P0/t2_1.nii", "flair": "P0/flair_1.nii", "label": "P0/mask_1.nii"},
    ),
    "one image, numbered": (
        paths("volume-{who}.nii", who=[0, 1, 10]) + paths("L:segmentation-{who}.nii", who=[0, 1, 10]),
        ["0", "1", "10"],
        {"volume": "volume-0.nii", "label": "segmentation-0.nii"},
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_files_of_a_case_are_found(tree, name):
    files, ids, first = KINDS[name]
    proposal = read_names(tree(*files))
    cases = found(proposal)
    assert list(cases) == ids
    assert cases[ids[0]] == first
    assert {tuple(sorted(case)) for case in cases.values()} == {tuple(sorted(first))}  # each has the same roles
    assert not proposal.left_out


# A case of one image that lacks it is no case.
@pytest.mark.parametrize("name", [name for name, (_, _, first) in KINDS.items() if len(first) > 2])
def test_what_a_case_lacks_changes_no_other_case(tree, name):
    files, ids, first = KINDS[name]
    lost = next(file for role, file in first.items() if role != "label")
    folder = tree(*files)
    complete = found(read_names(folder))
    (folder / lost).unlink()
    cases = found(read_names(folder))
    assert list(cases) == ids
    assert {id: cases[id] for id in ids[1:]} == {id: complete[id] for id in ids[1:]}
    assert cases[ids[0]] == {role: file for role, file in first.items() if file != lost}


@pytest.mark.parametrize(
    ("before", "after", "label"),
    [
        ("T1 ohne KM", "T1 nach KM", "Läsion"),
        ("T1 sans injection", "T1 injecté", "Contour tumeur"),
        ("T1 sin contraste", "T1 con contraste", "lesión"),
        ("T1 basale", "T1 dopo mdc", "maschera tumore"),
        ("T1 voor contrast", "T1 na contrast", "laesie"),
        ("pre_T1", "CE-T1w", "tumour_mask"),
    ],
)
def test_contrast_is_told_in_six_languages(tree, before, after, label):
    files = paths("Fall {who}/{what}.nii", who=["A7", "B12"], what=[before, after, "FLAIR"])
    proposal = read_names(tree(*files, *paths("L:Fall {who}/{what}.nii", who=["A7", "B12"], what=[label])))
    assert sorted(shown(proposal).values()) == ["flair", "t1", "t1ce"]
    (of,) = {name for name, modality in proposal.modalities.items() if modality.shows == "t1ce"}
    assert found(proposal)["Fall A7"][of] == f"Fall A7/{after}.nii"
    assert found(proposal)["Fall A7"]["label"] == f"Fall A7/{label}.nii"


def test_modalities_named_differently_from_case_to_case_are_one_and_asked_about(tree):
    one = ["A1/T1 ohne KM.nii", "A1/T1 mit KM.nii", "L:A1/Maske.nii"]
    two = ["B2/AX T1 SANS GADO.nii", "B2/AX T1 GADO.nii", "L:B2/segmentation.nii"]
    proposal = read_names(tree(*one, *two, "C3/t1 pre.nii", "L:C3/Maske.nii"))
    assert list(proposal.modalities) == ["t1", "t1ce"]
    assert found(proposal)["B2"]["t1ce"] == "B2/AX T1 GADO.nii"
    assert proposal.lacking() == {"C3": ("t1ce",)}
    assert any(question.startswith("which file is which modality") for question in proposal.questions)


def test_where_each_modality_has_a_label_of_its_own_each_is_a_case(tree):
    images = paths("{what}_train/{what}_train_100{who}_image.nii", what=["ct", "mr"], who=[1, 2])
    labels = paths("L:{what}_train/{what}_train_100{who}_label.nii", what=["ct", "mr"], who=[1, 2])
    proposal = read_names(tree(*images, *labels))
    assert found(proposal)["mr_train_1001"] == {
        "mr": "mr_train/mr_train_1001_image.nii",
        "label": "mr_train/mr_train_1001_label.nii",
    }
    assert len(proposal.cases) == 4
    assert any("whether ct_train_1001, mr_train_1001 are one patient" in question for question in proposal.questions)


def test_what_was_examined_with_several_images_is_no_modality(tree):
    """``FDG`` is a tracer and tells a PET, but not where a CT and a label lie in the folder as well."""
    files = paths("{who}/{tracer}/{what}.nii", who=["p_1", "p_2"], tracer=["FDG", "PSMA"], what=["CT", "PET"])
    labels = paths("L:{who}/{tracer}/TTB.nii", who=["p_1", "p_2"], tracer=["FDG", "PSMA"])
    proposal = read_names(tree(*files, *labels))
    assert found(proposal)["p_1/FDG"] == {"CT": "p_1/FDG/CT.nii", "PET": "p_1/FDG/PET.nii", "label": "p_1/FDG/TTB.nii"}
    assert len(proposal.cases) == 4


def test_no_case_lies_in_two_sections(tree):
    files = ["Training 1/volume-0.nii", "L:Training 1/segmentation-0.nii", "Training 1/volume-1.nii"]
    proposal = read_names(tree(*files, "L:Training 1/segmentation-1.nii", "Test-Data/test-volume-0.nii"))
    assert {section: len(ids) for section, ids in proposal.sections.items()} == {"training": 2, "test": 1}
    assert [case.label is None for case in proposal.cases] == [False, False, True]


def test_images_in_a_folder_of_masks_are_copies_and_no_masks(tree):
    files = paths("{who}/{what}.nii", who=["A1", "A2"], what=["T1", "FLAIR"])
    copies = paths("{who}/auto-segmentation/registered/{what}_bet.nii", who=["A1", "A2"], what=["T1", "FLAIR"])
    proposal = read_names(
        tree(*files, *copies, *paths("L:{who}/auto-segmentation/registered/mask.nii", who=["A1", "A2"]))
    )
    assert found(proposal)["A1"] == {
        "T1": "A1/T1.nii",
        "FLAIR": "A1/FLAIR.nii",
        "label": "A1/auto-segmentation/registered/mask.nii",
    }
    assert {reason: len(files) for reason, files in proposal.left_out.items()} == {"processed copy of an image": 4}


def test_what_no_name_tells_is_a_label_if_it_holds_one(tree):
    files = paths("{who}/{what}.nii", who=["115346", "2290867"], what=["rFlair", "rDWI2"])
    proposal = read_names(tree(*files, *paths("L:{who}/Leze_FLAIR_DWI2.nii", who=["115346", "2290867"])))
    assert shown(proposal) == {"rFlair": "flair", "rDWI2": "dwi"}
    assert [case.label.name for case in proposal.cases] == ["Leze_FLAIR_DWI2.nii"] * 2


def test_an_image_of_few_values_is_no_label(tree):
    """A coarse image has whole numbers too, but no patches of one number."""
    files = paths("{who}/{what}.nii", who=["A1", "A2"], what=["t1", "zzz"])
    root = tree(*files, *paths("L:{who}/lesion.nii", who=["A1", "A2"]))
    coarse = np.zeros((12, 12, 12), np.int16)
    coarse[2:8, 2:8, 2:8] = np.random.default_rng(0).integers(20, 50, (6, 6, 6))
    for who in ("A1", "A2"):
        (root / who / "zzz.nii").write_bytes(nifti_bytes(coarse, np.eye(4)))
    proposal = read_names(root)
    assert [case.label.name for case in proposal.cases] == ["lesion.nii"] * 2
    assert any("zzz" in question and "does not tell" in question for question in proposal.questions)


def test_one_name_in_two_places_is_two_cases_unless_the_images_are_the_same(tree):
    files = paths("{site}/K{who}_{what}.nii", site=["A", "B"], who=[1, 2], what=["t1", "flair"])
    labels = paths("L:{site}/K{who}_seg.nii", site=["A", "B"], who=[1, 2])
    folder = tree(*files, *labels)
    assert [case.id for case in read_names(folder).cases] == ["A/K1", "A/K2", "B/K1", "B/K2"]
    for file in ("K1_t1.nii", "K1_flair.nii"):
        (folder / "B" / file).write_bytes((folder / "A" / file).read_bytes())
    proposal = read_names(folder)
    assert [case.id for case in proposal.cases] == ["A/K2", "B/K2", "K1"]
    assert any("which copy of K1 holds" in question for question in proposal.questions)


@pytest.mark.parametrize(
    ("files", "patients"),
    [
        (paths("P{who}/{visit}/T1.nii", who=[1, 2], visit=["2019-03-12", "2020-01-05"]), ["P1", "P1", "P2", "P2"]),
        (paths("Paz {who}/{visit}/T1.nii", who=[1, 2], visit=["basal", "control 1"]), ["Paz 1"] * 2 + ["Paz 2"] * 2),
        (paths("ms{who}_v{n}_{what}.nii", who=["01", "02"], n=[1, 2], what=["t1", "pd"]), ["ms01"] * 2 + ["ms02"] * 2),
        (paths("PAZ{who}_{date}/T1.nii", who=["001", "002"], date=["20190312"]), ["PAZ001", "PAZ002"]),
        (paths("{date}_{who}_{what}.nii", date=["2020-01-05"], who=[47, 48], what=["t1", "t2"]), ["47", "48"]),
        (paths("{visit}/P0{who}/{what}.nii", visit=["baseline", "followup"], who=[1, 2], what=["t1", "t2"]),
         ["P01", "P02"] * 2),
        (paths("{visit}/P0{who}_{what}.nii", visit=["2019", "2020"], who=[1, 2], what=["t1", "t2"]),
         ["P01", "P02"] * 2),
        (paths("{who}{time}/{who}{time}_{what}.nii", who=["1001", "1014"], time=["A", "B"], what=["T1", "T2"]),
         ["1001"] * 2 + ["1014"] * 2),
        (paths("{who}/{who}_{view}_{what}.nii", who=["001", "002"], view=["LA_ED", "SA_ES"], what=["t1", "t2"]),
         ["001"] * 2 + ["002"] * 2),
        (paths("{who}/{time}/{who}_{time}_{what}.nii", who=[2, 10], time=["midRT", "preRT"], what=["T2", "T1"]),
         ["2"] * 2 + ["10"] * 2),
        ([*paths("P1/{time}/{what}.nii", time=["week-000-1", "week-044"], what=["T1", "T2"]), "P2/week-001/T1.nii"],
         ["P1", "P1", "P2"]),
        (paths("x_00{who}_{date}-NA_{what}.nii", who=["a1", "b2"], date=["03-23-2003", "07-02-2004"], what=["A", "T1"]),
         ["x_00a1"] * 2 + ["x_00b2"] * 2),
        ([*paths("cross2022_etz_{who}_{what}.nii", who=[1, 106], what=["T1", "T2"]), "cross2022_ldn_7_T1.nii"],
         ["cross2022_etz_1", "cross2022_etz_106", "cross2022_ldn_7"]),
    ],
)  # fmt: skip
def test_visits_of_a_patient_are_cases_of_one_patient(tree, files, patients):
    assert [case.patient for case in read_names(tree(*files)).cases] == patients


def test_two_images_of_a_patient_with_one_label_are_one_case_to_be_asked_about(tree):
    files = paths("{who}/{visit}/FLAIR.nii", who=["01", "02"], visit=["baseline", "followup"])
    proposal = read_names(tree(*files, *paths("L:{who}/new_lesions.nii", who=["01", "02"])))
    assert found(proposal)["01"] == {
        "baseline": "01/baseline/FLAIR.nii",
        "followup": "01/followup/FLAIR.nii",
        "label": "01/new_lesions.nii",
    }
    assert {modality.shows for modality in proposal.modalities.values()} == {"flair"}
    assert any("or two cases" in question for question in proposal.questions)


def test_copies_are_never_taken_beside_one_another(tree):
    files = paths("S{who}/{how}/{what}.nii", who=[1, 2], how=["raw", "registered"], what=["T1", "FLAIR"])
    proposal = read_names(tree(*files, *paths("L:S{who}/lesion.nii", who=[1, 2])))
    assert found(proposal)["S1"]["T1"] == "S1/registered/T1.nii"
    assert [len(left) for left in proposal.left_out.values()] == [4]
    assert any("registered or raw" in question for question in proposal.questions)


def test_of_two_copies_the_one_on_the_labels_grid_is_proposed(tree):
    """Whoever resampled the images and drew on them left the others on their own grid, whatever they are called."""
    files = paths("S{who}/{what}.nii", who=[1, 2], what=["CT", "CTres"])
    folder = tree(*files, *paths("L:S{who}/SEG.nii", who=[1, 2]))
    voxels = np.ones((3, 3, 3), np.int16)
    for who in (1, 2):
        (folder / f"S{who}/CT.nii").write_bytes(nifti_bytes(voxels, np.eye(4)))
    assert found(read_names(folder))["S1"]["CTres"] == "S1/CTres.nii"
    for who in (1, 2):
        (folder / f"S{who}/CT.nii").write_bytes((folder / f"S{who}/CTres.nii").read_bytes())
    assert found(read_names(folder))["S1"]["CT"] == "S1/CT.nii"  # on one grid, the name without remark


def test_series_over_time_are_left_out(tree):
    proposal = read_names(tree(*paths("p{who}_{what}.nii", who=[1, 2], what=["CT", "CBF"]), "4:p1_CTP.nii"))
    assert list(proposal.modalities) == ["CT", "CBF"]
    assert [[file.name for file in files] for files in proposal.left_out.values()] == [["p1_CTP.nii"]]


def test_what_is_no_image_is_left_out_by_its_reason(tree):
    files = paths("S{who}/{what}.nii", who=[1, 2], what=["T1", "Localizer", "SUB KM-nativ", "sag", "brain_mask"])
    proposal = read_names(tree(*files, *paths("L:S{who}/lesion.nii", who=[1, 2])))
    assert list(proposal.modalities) == ["T1"]
    assert {reason: len(files) for reason, files in proposal.left_out.items()} == {
        "localizer": 2,
        "difference of two images": 2,
        "image of which only the plane is told": 2,
        "brain mask, not the target": 2,
    }


def test_a_label_named_unlike_its_case_is_proposed_and_asked_about(tree):
    files = paths("K{who}/K{who}_{what}.nii", who=["01", "02"], what=["t1", "t2"])
    proposal = read_names(tree(*files, "L:K01/K01_seg.nii", "L:K02/W39_1998_Segm.nii"))
    assert found(proposal)["K02"]["label"] == "K02/W39_1998_Segm.nii"
    assert any("W39_1998_Segm.nii" in question for question in proposal.questions)


def test_a_case_that_lies_in_two_places_is_taken_once(tree):
    files = paths("all/{who}/{who}_{what}.nii", who=["X-1", "X-2", "X-3"], what=["t1", "t2"])
    labels = paths("L:all/{who}/{who}_seg.nii", who=["X-1", "X-2", "X-3"])
    proposal = read_names(tree(*files, *labels, "L:corrected/X-2_seg.nii"))
    assert found(proposal)["X-2"]["label"] == "corrected/X-2_seg.nii"
    assert [path.parent.name for path in proposal.left_out["another copy of the same case"]] == ["X-2"]
    assert any("which copy of X-2" in question for question in proposal.questions)


def test_folders_declare_sections_and_a_case_without_label_is_for_testing(tree):
    files = paths("train/images/{who}_{what}.nii", who=["a1", "a2", "a3"], what=["adc", "dwi"])
    labels = paths("L:train/labels/{who}.nii", who=["a1", "a2"])
    folder = tree(*files, *labels, "test/images/b1_adc.nii", "test/images/b1_dwi.nii")
    assert read_names(folder).sections == {"training": ("a1", "a2", "a3"), "test": ("b1",)}
    proposal = propose(folder)
    assert proposal.sections == {"training": ("a1", "a2"), "test": ("b1", "a3")}
    assert [note for note in proposal.notes if "without label" in note] == [
        "1 cases without label are taken for test cases, to be predicted: a3"
    ]


def test_one_number_in_two_sections_is_two_cases(tree):
    files = paths("{part}/case_{who}/{what}.nii", part=["TRAINING", "TESTING"], who=[1, 2], what=["CT", "CT_CBF"])
    proposal = read_names(tree(*files))
    assert list(found(proposal)) == ["TESTING/case_1", "TESTING/case_2", "TRAINING/case_1", "TRAINING/case_2"]
    assert {section: len(ids) for section, ids in proposal.sections.items()} == {"test": 2, "training": 2}


def test_names_that_tell_no_modality_are_asked_about_and_the_label_stays_unread(tree):
    files = paths("imagesTr/C{who}_{channel}.nii", who=[1, 2], channel=["0000", "0001"])
    proposal = read_names(tree(*files, *paths("L:labelsTr/C{who}.nii", who=[1, 2])))
    assert found(proposal)["C1"] == {
        "channel 0000": "imagesTr/C1_0000.nii",
        "channel 0001": "imagesTr/C1_0001.nii",
        "label": "labelsTr/C1.nii",
    }
    assert any("no name tells" in question for question in proposal.questions)
    assert proposal.labels[""].meanings == {}


def test_what_a_publication_says_of_its_images_is_not_asked(tree):
    """The frames of ACDC are cine, which no name in it says."""
    files = paths("training/patient00{who}/patient00{who}_frame01.nii", who=[1, 2])
    labels = paths("L:training/patient00{who}/patient00{who}_frame01_gt.nii", who=[1, 2])
    proposal = read_names(tree(*files, *labels))
    assert proposal.modalities == {"cine": Modality(shows="bssfp")}
    assert [list(case.images) for case in proposal.cases] == [["cine"], ["cine"]]
    assert proposal.questions == ()
    assert any("published with the numbers of the labels" in note for note in proposal.notes)


def test_a_word_of_two_meanings_is_decided_by_what_the_file_holds(tree):
    """``gd`` is gadolinium for one and the gold standard for another."""
    gold = read_names(tree(*paths("h{who}_{what}.nii", who=[1, 2], what=["C0", "DE"]), "L:h1_gd.nii", "L:h2_gd.nii"))
    assert (list(gold.modalities), [case.label.name for case in gold.cases]) == (
        ["C0", "DE"],
        ["h1_gd.nii", "h2_gd.nii"],
    )
    agent = read_names(tree(*paths("g/h{who}_{what}.nii", who=[1, 2], what=["T1", "gd"])) / "g")
    assert shown(agent) == {"T1": "t1", "gd": "t1ce"}


def test_copies_that_a_program_made_beside_a_file_are_left_out(tree):
    files = paths("P{who}/{what}.nii", who=[1, 2], what=["t1", "flair"])
    folder = tree(*files, *paths("L:P{who}/seg.nii", who=[1, 2]))
    complete = found(read_names(folder))
    for copy in ("t1 (1).nii", "Copy of t1.nii", "t1 - Kopie.nii", "t1 - Copy (2).nii", "t1 copy.nii"):
        (folder / "P1" / copy).write_bytes((folder / "P1/t1.nii").read_bytes())
    proposal = read_names(folder)
    assert found(proposal) == complete
    assert {reason: len(files) for reason, files in proposal.left_out.items()} == {"copy of a file beside it": 5}
    assert not any("copy" in question for question in proposal.questions)
    (folder / "P1/t1 (1).nii").write_bytes((folder / "P2/t1.nii").read_bytes())
    assert any("P1/t1 (1).nii or t1.nii" in question for question in read_names(folder).questions)
    alone = tree(*paths("only/scan ({who}).nii", who=[1, 2])) / "only"  # numbered by a program, and no copies
    assert len(read_names(alone).cases) == 2


def test_files_of_several_volumes_alone_are_refused_with_what_helps(tree):
    proposal = read_names(tree(*paths("4:{who}/{who}_{what}.nii", who=["A", "B"], what=["sa", "sa_gt"])))
    assert (proposal.kind, proposal.cases) == ("volume_series", ())
    assert "4 files hold several volumes each, such as A/A_sa with 3" in proposal.refusals[0]


def test_slices_are_refused_with_what_helps(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "IMG-0004-00001.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "1" / "IMG-0004-00001.png").write_bytes(b"x")
    proposal = read_names(tmp_path)
    assert (proposal.kind, proposal.cases) == ("dicom_slices", ())
    assert ["DICOM" in line or "stack" in line for line in proposal.refusals] == [True, True]
    (tmp_path / "empty").mkdir()
    assert read_names(tmp_path / "empty") is None


WORDS = (
    *("T1", "T2", "FLAIR", "ADC", "CT", "SUV", "seg", "mask", "KM", "raw", "post", "01", "003", "A7", "2019-03-12"),
    *("v1", "rater1", "final", "anna", "0000", "imagesTr", "labelsTr", "test", "Läsion", "baseline", "res"),
)


@pytest.mark.parametrize("seed", range(30))
def test_no_file_of_any_folder_is_passed_over_in_silence(tree, seed):
    """Each is an image, a label or a reader's map of one case, or left out by a reason; none is two of these."""
    draw = random.Random(seed)  # noqa: S311 - nothing is encrypted
    files = set()
    for _ in range(draw.randint(1, 9)):
        folders = [" ".join(draw.sample(WORDS, draw.randint(1, 2))) for _ in range(draw.randint(0, 3))]
        files.add("/".join([*folders, draw.choice("_- .").join(draw.sample(WORDS, draw.randint(1, 4))) + ".nii"]))
    folder = tree(*files)
    proposal = read_names(folder)
    images = [of.path for case in proposal.cases for of in case.images.values()]
    labels = [case.label for case in proposal.cases if case.label is not None]
    readers = [path for case in proposal.cases for path in case.raters.values() if path != case.label]
    left_out = [path for paths in proposal.left_out.values() for path in paths]
    placed = [*images, *labels, *readers, *left_out]
    assert sorted(placed) == sorted(folder / file for file in files)
    assert proposal.to_json(folder)["questions"] == list(proposal.questions)
