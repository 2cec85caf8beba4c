"""Which mask is the label: what readers agreed on, a human's before a machine's, a lesion before an organ."""

from pathlib import Path

import pytest

from cggm_med.data.folders.targets import Mask, choose_targets


def chosen(*texts):
    found = choose_targets({"a": [Mask(Path(text), text) for text in texts]})
    return found, found.labels.get("a") and found.labels["a"].name


@pytest.mark.parametrize(
    ("label", "others", "raters"),
    [
        ("Consensus", ["ManualSegmentation_1", "ManualSegmentation_7"], ["1", "7"]),
        ("seg_STAPLE", ["seg_R1", "seg_R2"], ["r1", "r2"]),
        ("ground_truth", ["ground_truth_expert1", "ground_truth_expert2"], ["1", "2"]),
        ("final", ["readerA", "readerB"], ["a", "b"]),
    ],
)
def test_what_readers_agreed_on_is_the_label(label, others, raters):
    found, name = chosen(*others, label)
    assert (name, sorted(found.raters["a"])) == (label, raters)
    assert found.questions == ()
    assert label in found.notes[0]


def test_without_agreement_the_first_reader_is_proposed_and_asked_for():
    found, name = chosen("mask2", "mask1", "mask10")
    assert (name, len(found.raters["a"]), len(found.questions)) == ("mask1", 3, 1)


def test_a_single_number_is_no_reader():
    found, name = chosen("mask1")
    assert (name, found.raters, found.questions) == ("mask1", {}, ())


def test_brain_masks_are_left_out_even_alone():
    found, name = chosen("brain_mask")
    assert (name, list(found.left_out)) == (None, ["brain mask, not the target"])
    assert chosen("brain_mask", "tumor_segmentation")[1] == "tumor_segmentation"


def test_of_two_that_could_be_meant_one_is_proposed_and_asked_for():
    found, name = chosen("seg-manual", "lesion-manual")
    assert name == "lesion-manual"
    assert "seg-manual" in found.questions[0]


def test_a_machines_drawing_is_no_label_where_people_drew():
    masks = {
        "a": [Mask(Path("a1"), "lesions human"), Mask(Path("a2"), "lesions AI")],
        "b": [Mask(Path("b2"), "lesions AI")],
    }
    found = choose_targets(masks)
    assert found.labels == {"a": Path("a1")}
    assert found.left_out == {"drawn by a machine": (Path("a2"), Path("b2"))}
    assert "b" in found.questions[0]
    alone = choose_targets({"b": [Mask(Path("b2"), "lesions AI")]})
    assert alone.labels == {"b": Path("b2")}


def test_labels_whose_names_differ_from_case_to_case_are_asked_about():
    found = choose_targets({"a": [Mask(Path("x"), "Läsion")], "b": [Mask(Path("y"), "Maske Tumor")]})
    assert len(found.labels) == 2
    assert "differs from case to case" in found.questions[0]
    spelled = choose_targets({"a": [Mask(Path("x"), "seg")], "b": [Mask(Path("y"), "Segm")]})
    assert spelled.questions == ()
