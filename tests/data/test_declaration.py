"""Declarations of data sets: what is read back equals what was written, and what is open or wrong is named."""

import numpy as np
import pytest

from cggm_med.data.declaration import Declaration
from cggm_med.errors import DataError, UnknownName

GLIOMA = {
    "name": "glioma",
    "modalities": {"flair": {"kind": "mri"}, "suv": {"kind": "pet", "shows": "pet"}, "ct": "ct"},
    "labels": {"1": "necrosis", "2": "oedema", "4": "enhancing tumour"},
    "regions": {"WT": [1, 2, 4], "TC": [1, 4], "ET": [4]},
    "required": ["flair"],
    "reference": "flair",
    "spacing": [1, 1, 3],
    "colours": {"WT": "#56B4E9"},
    "codes": {
        "ET": {
            "category": ["SCT", "49755003", "Morphologically Abnormal Structure"],
            "type": ["NCIt", "C113842", "Enhancing Lesion"],
        }
    },
    "lesion_rules": {"dilations": 1, "min_mm3": 2.0},
}
HEART = {
    "modalities": ["bssfp"],
    "labels": {"200": "myocardium", "500": "left ventricle", "2221": "scar", "7": "artefact"},
    "regions": {"myocardium": [200, 2221], "left ventricle": 500},
    "ignore": 9,
}


def read(content):
    return Declaration.from_json(content, "dataset.json")


@pytest.mark.parametrize("content", [GLIOMA, HEART])
def test_what_is_written_is_read_back(content):
    made = read(content)
    assert read(made.to_json()) == made


def test_overlapping_regions_are_painted_from_the_outermost_inwards():
    (convention,) = read(GLIOMA).conventions.values()
    assert (convention.exclusive, convention.paint) == (False, {"WT": 2, "TC": 1, "ET": 4})


def test_numbers_above_255_and_single_numbers_are_regions_that_exclude_one_another():
    (convention,) = read(HEART).conventions.values()
    assert convention.exclusive
    assert convention.regions == {"myocardium": (200, 2221), "left ventricle": (500,)}
    assert convention.undeclared(np.array([0, 7, 9, 500, 501])) == [501]


def test_the_kind_of_an_image_decides_how_it_is_normalised():
    normalised = {name: modality.normalisation for name, modality in read(GLIOMA).modalities.items()}
    assert normalised == {"flair": "z_score", "suv": "keep_scale", "ct": "training_statistics"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": {}}, r'"modalities" is \{\}; expected such as'),
        ({"modalities": {"flair": {"kind": "?"}}}, "modality flair has no kind; write one of mri, ct, pet, map"),
        ({"labels": {"1": "?"}}, r'label 1 has the meaning "\?"; write what it means'),
        ({"labels": ["lesion"]}, "expected the meaning of each number"),
        ({"regions": {"WT": [1, 3]}}, r"region WT holds \[3\]; expected numbers among \[1, 2, 4\]"),
        ({"regions": {"a": [1, 2], "b": [1, 2]}}, "no label that smaller regions lack"),
        ({"exclusive": True}, r"exclude one another, and several hold the label \[1, 4\]"),
        ({"ignore": 2}, "ignore is 2; expected a label of its own"),
        ({"spacing": [1, 0, 1]}, "expected three sizes in mm"),
        ({"colours": {"WT": "red"}}, "colour of WT is 'red'"),
        ({"codes": {"WT": {"type": ["SCT", "4147007", "Mass"]}}}, "expected an object with category and type"),
        ({"lesion_rules": {"connectivity": 8}}, "connectivity 6, 18 or 26"),
    ],
)
def test_what_is_open_or_wrong_is_named(change, message):
    with pytest.raises(DataError, match=message):
        read({**GLIOMA, **change})


def test_unknown_names_are_refused():
    for change in ({"reference": "t9"}, {"required": ["t9"]}, {"modalities": {"a": {"kind": "mr"}}}):
        with pytest.raises(UnknownName, match=r"stands in dataset\.json"):
            read({**GLIOMA, **change})


def test_several_conventions_have_the_same_regions():
    both = {
        "a": {"labels": {"1": "core", "4": "rim"}, "regions": {"core": [1], "rim": [4]}},
        "b": {"labels": {"1": "core", "3": "rim"}, "regions": {"core": [1], "rim": [3]}},
    }
    content = {"modalities": ["t1"], "conventions": both}
    assert read(content).regions == ("core", "rim")
    assert read(read(content).to_json()) == read(content)
    both["b"] = {"labels": {"1": "core"}}
    with pytest.raises(DataError, match="must have the same regions in one order"):
        read(content)
