"""Masks of a case that are regions, one file each, and what programs for drawing write into theirs."""

import gzip

import numpy as np
import pytest

from cggm_med.data.folders.inspection import inspect_proposal
from cggm_med.data.folders.propose import propose, read_any
from cggm_med.data.volumes.checks import inspect
from cggm_med.data.volumes.preprocess import target_of
from cggm_med.files import write_json

IMAGE = np.random.default_rng(0).normal(300, 90, (6, 5, 4)).astype(np.int16)


def box(x, y=(1, 4)):
    """A mask that is 1 between two places along x and y."""
    mask = np.zeros(IMAGE.shape, np.uint8)
    mask[slice(*x), slice(*y), 1:3] = 1
    return mask


@pytest.fixture
def cohort(files):
    """Write cases with an image and masks of these names and voxels, and return what is proposed."""

    def write(cases, image="ct"):
        for id, masks in cases.items():
            folder = files(f"{id}/{image}.nii", voxels=IMAGE)
            for name, voxels in masks.items():
                files(f"{id}/{name}.nii", voxels=voxels)
        return inspect_proposal(propose(folder))

    return write


def regions(found):
    (labels,) = found.proposal.labels.values()
    return labels.regions or {meaning: (label,) for label, meaning in labels.meanings.items()}


def settled(found, folder):
    """The list that is proposed, without its questions, as training reads it."""
    listing = folder / "dataset.json"
    write_json(listing, {**found.proposal.to_json(folder), "questions": []})
    read = read_any(folder)
    listing.unlink()
    return read


DISJOINT = {"edema": box((0, 2)), "necrosis": box((2, 3)), "enhancing_tumor": box((3, 5))}


def test_each_mask_is_a_region_of_the_name_of_its_file(cohort, tmp_path):
    found = cohort({"P1": DISJOINT, "P2": DISJOINT})
    assert regions(found) == {"edema": (1,), "enhancing_tumor": (2,), "necrosis": (3,)}
    assert found.voxels["P1"] == {1: 12, 2: 12, 3: 6}
    (question,) = found.proposal.questions
    assert "edema, enhancing_tumor, necrosis, each drawn in a file of its own" in question
    declaration, cases = settled(found, tmp_path)
    assert declaration.regions == ("edema", "enhancing_tumor", "necrosis")
    assert declaration.exclusive
    assert [path.name for path in cases.cases[0].label.paths] == ["edema.nii", "enhancing_tumor.nii", "necrosis.nii"]


@pytest.mark.parametrize("pattern", ["{}_mask", "segmentations/{}", "OAR_{}_seg", "{}label"])
def test_words_that_all_masks_share_say_nothing(cohort, pattern):
    masks = {pattern.format(name): box(x) for name, x in {"liver": (0, 2), "spleen": (3, 4)}.items()}
    found = cohort({"P1": masks, "P2": masks, "P3": masks})
    suffix = "label" if pattern == "{}label" else ""
    assert regions(found) == {f"liver{suffix}": (1,), f"spleen{suffix}": (2,)}


def test_regions_that_overlap_stay_overlapping(cohort, tmp_path):
    """A tumour inside its organ, and two regions of which neither lies inside the other."""
    masks = {"liver": box((0, 5)), "tumour": box((1, 2)), "vessel": box((4, 6))}
    found = cohort({"P1": masks, "P2": masks})
    assert regions(found) == {"liver": (1, 3, 4), "vessel": (2, 3), "tumour": (4,)}
    assert "some overlap (liver with vessel, liver with tumour)" in found.proposal.questions[0]
    declaration, cases = settled(found, tmp_path)
    (convention,) = declaration.conventions.values()
    volumes = inspect(cases.cases[0], convention).volumes
    target = target_of(cases.cases[0], convention, volumes, "consensus")
    for region, mask in zip(declaration.regions, target, strict=True):
        assert np.array_equal(mask, masks[region]), region


def test_numbered_masks_that_nowhere_overlap_are_pieces_of_one_region(cohort, tmp_path):
    found = cohort({"P1": {"lesion1": box((0, 2)), "lesion2": box((3, 5))}, "P2": {"lesion1": box((0, 2))}})
    assert regions(found) == {"lesion": (1,)}
    assert found.voxels == {"P1": {1: 24}, "P2": {1: 12}}
    (question,) = found.proposal.questions
    assert "whether lesion1, lesion2 are together one region" in question
    _, cases = settled(found, tmp_path)
    assert [[path.name for path in case.label.paths] for case in cases.cases] == [
        ["lesion1.nii", "lesion2.nii"],
        ["lesion1.nii"],
    ]
    readers = cohort({"P1": {"lesion1": box((0, 2)), "lesion2": box((1, 3))}, "P2": {"lesion1": box((0, 2))}})
    assert list(readers.proposal.cases[0].raters) == ["1", "2"]


def test_a_region_without_a_file_was_not_drawn_unless_the_user_knows_better(cohort, tmp_path):
    masks = {"liver": box((0, 2)), "tumour": box((3, 4))}
    found = cohort({"P1": masks, "P2": masks, "P3": {"liver": box((0, 2))}})
    assert any("whether tumour is there in cases without a file of it (P3)" in q for q in found.proposal.questions)
    _, cases = settled(found, tmp_path)
    assert [case.not_drawn for case in cases.cases] == [(), (), ("tumour",)]


@pytest.mark.parametrize(
    "masks",
    [
        {"lesion_AB": box((0, 3)), "lesion_CD": box((1, 4))},  # initials of readers
        {"lesion_v1": box((0, 3)), "lesion_final": box((1, 4))},
        {"T1_seg": box((0, 3)), "FLAIR_seg": box((3, 5))},
        {"seg": box((0, 3)), "tumour_seg": box((3, 5))},
        {"kidney": box((0, 3)), "tumour": box((3, 5)) * 2 + box((0, 1))},  # two numbers
        {"tumour_first_look": box((0, 3)), "tumour_second_look": box((0, 3))},
    ],
)
def test_drawings_of_one_thing_are_no_regions(cohort, masks):
    found = cohort({"P1": masks, "P2": masks})
    assert any("which mask is the target" in question for question in found.proposal.questions)


SLICER = """NRRD0004
type: unsigned char
dimension: {dimension}
space: left-posterior-superior
sizes: {sizes}
space directions: {directions}
kinds: {kinds}
encoding: gzip
space origin: (0,0,0)
{segments}

"""


@pytest.fixture
def slicer(files):
    """Write a segmentation as 3D Slicer does: voxels of a layer, or several, and segments (name, value, layer)."""

    def write(id, voxels, *segments):
        folder = files(f"{id}/T1.nii", voxels=IMAGE)
        layered = np.ndim(voxels) == 4
        lines = [
            f"Segment{k}_{key}:={given}"
            for k, segment in enumerate(segments)
            for key, given in zip(("Name", "LabelValue", "Layer"), segment, strict=True)
        ]
        axes = "(-1,0,0) (0,-1,0) (0,0,1)"
        header = SLICER.format(
            dimension=np.ndim(voxels),
            sizes=" ".join(map(str, np.shape(voxels))),
            directions=f"none {axes}" if layered else axes,
            kinds="list domain domain domain" if layered else "domain domain domain",
            segments="\n".join(lines),
        )
        content = header.encode() + gzip.compress(np.asarray(voxels, np.uint8).tobytes(order="F"))
        (folder / id / "Segmentation.seg.nrrd").write_bytes(content)
        return folder

    return write


def test_slicer_names_the_numbers_of_a_segmentation(slicer):
    for id in ("P1", "P2"):
        folder = slicer(id, box((0, 2)) + 2 * box((3, 5)), ("Tumor", 1, 0), ("Edema", 2, 0))
    declaration, cases = read_any(folder)
    (convention,) = declaration.conventions.values()
    assert convention.meanings == {1: "Tumor", 2: "Edema"}
    assert [case.label.name for case in cases.cases] == ["Segmentation.seg.nrrd"] * 2


def test_a_structure_may_have_another_number_in_each_of_slicers_files(slicer):
    slicer("P1", box((0, 2)) + 2 * box((3, 5)), ("Tumor", 1, 0), ("Edema", 2, 0))
    folder = slicer("P2", box((0, 2)) + 2 * box((3, 5)), ("Edema", 1, 0), ("Tumor", 2, 0))
    found = inspect_proposal(propose(folder))
    assert any("one has different numbers in different files" in question for question in found.proposal.questions)
    declaration, cases = settled(found, folder)
    (convention,) = declaration.conventions.values()
    tumour = list(declaration.regions).index("Tumor")
    for case, x in zip(cases.cases, ((0, 2), (3, 5)), strict=True):
        drawn = convention.to_regions(inspect(case, convention).volumes["label"])[tumour]
        assert np.array_equal(drawn, box(x)), case.id


def test_overlapping_segments_lie_in_layers(slicer):
    layers = np.stack([box((0, 4)), box((2, 6))])
    for id in ("P1", "P2"):
        folder = slicer(id, layers, ("Organ", 1, 0), ("Mass", 1, 1))
    found = inspect_proposal(propose(folder))
    assert any("they overlap, so each case says where" in question for question in found.proposal.questions)
    declaration, cases = settled(found, folder)
    (convention,) = declaration.conventions.values()
    drawn = convention.to_regions(inspect(cases.cases[0], convention).volumes["label"])
    for region, mask in zip(declaration.regions, drawn, strict=True):
        assert np.array_equal(mask, box((0, 4)) if region == "Organ" else box((2, 6))), region


def test_segments_without_names_are_asked_about(slicer):
    folder = slicer("P1", box((0, 2)), ("Segment_1", 1, 0))
    proposal = inspect_proposal(propose(folder)).proposal
    assert proposal.labels[""].meanings == {1: "?"}
    assert any("what 1 means" in question for question in proposal.questions)


def test_itk_snap_says_in_a_table_what_numbers_mean(cohort, tmp_path):
    lines = ["#" * 48, "# ITK-SnAP Label Description File", '0 0 0 0 0 0 0 "Clear Label"', '1 255 0 0 1 1 1 "Tumor"']
    (tmp_path / "P1").mkdir()
    (tmp_path / "P1" / "labels.txt").write_text("\n".join(lines))
    found = cohort({"P1": {"seg": box((0, 2))}, "P2": {"seg": box((0, 2))}})
    assert found.proposal.labels[""].meanings == {1: "Tumor"}
    assert found.proposal.questions == ()
    (tmp_path / "P2" / "labels.txt").write_text("\n".join(lines).replace("Tumor", "Lesion"))
    assert any("mean" in question for question in propose(tmp_path).questions)


def test_a_label_of_several_volumes_is_asked_about(tree):
    proposal = propose(tree("P1/ct.nii", "4:P1/seg.nii", "P2/ct.nii", "4:P2/seg.nii"))
    assert any("what the 3 volumes of P1/seg are, and of 1 more labels" in question for question in proposal.questions)
    assert {reason: len(files) for reason, files in proposal.left_out.items()} == {"label of several volumes": 2}
