"""BIDS as laboratories keep it: masks in derivatives or beside the images, entities, visits, tables of numbers."""

import itertools

import pytest

from cggm_med.data.folders.bids import read_bids


def paths(pattern, **values):
    """Paths of all combinations of values."""
    return [pattern.format(**dict(zip(values, of, strict=True))) for of in itertools.product(*values.values())]


def modalities(proposal):
    return {name: (of.shows or name, of.kind) for name, of in proposal.modalities.items()}


def labels(proposal):
    return {case.id: case.label and case.label.relative_to(proposal.path).as_posix() for case in proposal.cases}


IMAGES = paths("sub-{who}/anat/sub-{who}_{what}.nii.gz", who=["a1", "a2"], what=["T1w", "FLAIR"])


@pytest.mark.parametrize(
    "mask",
    [
        "sub-{who}/anat/sub-{who}_FLAIR_lesion",
        "derivatives/lesion/sub-{who}/anat/sub-{who}_space-T1w_label-L_mask",
        "derivatives/manual/sub-{who}/anat/sub-{who}_desc-tumour_dseg",
        "derivatives/sub-{who}/sub-{who}_msk",
        "derivatives/labels/sub-{who}/anat/sub-{who}_FLAIR_lesion-manual",
        "derivatives/x/sub-{who}/anat/sub-{who}_FLAIR_seg",
    ],
)
def test_masks_wherever_laboratories_put_them(tree, mask):
    proposal = read_bids(tree(*IMAGES, *paths(f"L:{mask}.nii.gz", who=["a1", "a2"])))
    assert modalities(proposal) == {"T1w": ("t1", "mri"), "FLAIR": ("flair", "mri")}
    assert labels(proposal) == {f"sub-{who}": f"{mask}.nii.gz".format(who=who) for who in ("a1", "a2")}
    assert not proposal.left_out
    assert all("mean" in question for question in proposal.questions)  # what else is there to ask


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["T1w", "ce-gadolinium_T1w"], {"T1w": ("t1", "mri"), "ce-gadolinium T1w": ("t1ce", "mri")}),
        (["acq-3D_T1w", "acq-3D_ce-GD_T1w"], {"T1w": ("t1", "mri"), "ce-GD T1w": ("t1ce", "mri")}),
        (["acq-pre_T1w", "acq-post_T1w"], {"acq-post T1w": ("t1ce", "mri"), "acq-pre T1w": ("t1", "mri")}),
        (["T2w", "acq-ax_T2w"], {"T2w": ("t2", "mri"), "acq-ax T2w": ("t2", "mri")}),
        (["ncct", "space-ncct_tmax"], {"ncct": ("ct", "ct"), "tmax": ("tmax", "map")}),
        (["trc-FET_pet", "ct"], {"pet": ("pet", "pet"), "ct": ("ct", "ct")}),
        (["dwi", "adc"], {"dwi": ("dwi", "mri"), "adc": ("adc", "map")}),
        (["T2starw", "PDw"], {"T2starw": ("t2star", "mri"), "PDw": ("pd", "mri")}),
    ],
)
def test_entities_name_a_modality_only_where_they_tell_images_apart(tree, files, expected):
    proposal = read_bids(tree(*paths("sub-{who}/anat/sub-{who}_{what}.nii.gz", who=["1", "2"], what=files)))
    assert modalities(proposal) == expected
    assert all(len(case.images) == 2 for case in proposal.cases)


def test_visits_belong_to_their_subject_and_post_is_no_contrast_agent(tree):
    files = paths("sub-{who}/ses-{when}/anat/sub-{who}_ses-{when}_T1w.nii.gz", who=["01", "02"], when=["pre", "post"])
    proposal = read_bids(tree(*files))
    assert [(case.id, case.patient) for case in proposal.cases][:2] == [
        ("sub-01_ses-post", "sub-01"),
        ("sub-01_ses-pre", "sub-01"),
    ]
    assert modalities(proposal) == {"T1w": ("t1", "mri")}


def test_a_table_above_the_masks_gives_the_numbers_their_meanings(tree):
    mask = "derivatives/manual/sub-{who}/anat/sub-{who}_space-T1w_desc-tumour_dseg.nii.gz"
    folder = tree(*IMAGES, *paths(f"L:{mask}", who=["a1", "a2"]))
    other = folder / "derivatives/manual/desc-vessels_dseg.tsv"
    other.write_text("index\tname\n1\tartery\n")  # of masks with another entity
    assert read_bids(folder).labels[""].meanings == {}
    (folder / "derivatives/manual/desc-tumour_dseg.tsv").write_text("index\tname\n0\tbackground\n1\tcore\n2\toedema\n")
    proposal = read_bids(folder)
    assert proposal.labels[""].meanings == {1: "core", 2: "oedema"}
    assert proposal.labels[""].source == "derivatives/manual/desc-tumour_dseg.tsv"
    assert proposal.questions == ()
    (folder / "derivatives/manual/sub-a1/anat/dseg.tsv").write_text("index\tname\n1\toedema\n2\tcore\n")
    assert "say different things" in read_bids(folder).questions[0]


def test_raw_images_are_proposed_before_their_preprocessed_copies(tree):
    copies = paths("derivatives/prep/sub-{who}/anat/sub-{who}_desc-preproc_FLAIR.nii.gz", who=["a1", "a2"])
    proposal = read_bids(tree(*IMAGES, *copies))
    assert all("derivatives" not in str(of.path) for case in proposal.cases for of in case.images.values())
    assert [len(files) for files in proposal.left_out.values()] == [2]
    assert "derivatives/prep" in proposal.questions[0]


def test_derivatives_alone_are_the_images(tree):
    file = "derivatives/prep/sub-{who}/anat/sub-{who}_space-MNI_desc-preproc_{what}.nii.gz"
    proposal = read_bids(tree(*paths(file, who=["1", "2"], what=["T1w", "FLAIR"])))
    assert modalities(proposal) == {"T1w": ("t1", "mri"), "FLAIR": ("flair", "mri")}
    assert proposal.questions == ()


def test_what_is_no_image_of_one_modality_is_left_out(tree):
    others = ["4:sub-a1/dwi/sub-a1_dwi.nii.gz", "4:sub-a1/func/sub-a1_task-rest_bold.nii.gz"]
    others += ["sub-a1/fmap/sub-a1_phasediff.nii.gz"]
    masks = paths(
        "L:derivatives/m/sub-{who}/anat/sub-{who}_label-{of}_mask.nii.gz", who=["a1", "a2"], of=["brain", "L"]
    )
    proposal = read_bids(tree(*IMAGES, *others, *masks))
    assert {reason.split(",")[0]: len(files) for reason, files in proposal.left_out.items()} == {
        "series of several volumes": 2,
        "field map": 1,
        "brain mask": 2,
    }
    assert all("label-L" in file for file in labels(proposal).values())


@pytest.mark.parametrize(
    "mask",
    [
        "derivatives/manual/sub-{who}/anat/sub-{who}_desc-rater{k}_label-lesion_mask.nii.gz",
        "derivatives/rater{k}/sub-{who}/anat/sub-{who}_dseg.nii.gz",
    ],
)
def test_readers_stay_beside_the_label_and_one_is_asked_for(tree, mask):
    proposal = read_bids(tree(*IMAGES, *paths(f"L:{mask}", who=["a1", "a2"], k=[1, 2])))
    assert [sorted(case.raters) for case in proposal.cases] == [["1", "2"]] * 2
    assert any("which reader" in question for question in proposal.questions)


def test_the_label_of_a_session_without_images_is_asked_about(tree):
    images = paths("sub-{who}/ses-01/ct/sub-{who}_ses-01_ncct.nii.gz", who=["1", "2"])
    masks = paths("L:derivatives/sub-{who}/ses-02/sub-{who}_ses-02_lesion-msk.nii.gz", who=["1", "2"])
    proposal = read_bids(tree(*images, *masks))
    assert all("ses-02" in file for file in labels(proposal).values())
    assert any("session without images" in question for question in proposal.questions)


def test_a_column_that_may_be_the_split_is_asked_about_and_not_taken(tree):
    folder = tree(*IMAGES)
    (folder / "participants.tsv").write_text(
        "participant_id\tage\tgroup\nsub-a1\t50\ttrain\nsub-a2\t60\ttest\nsub-a3\t5\ttest\n"
    )
    proposal = read_bids(folder)
    assert (proposal.sections, proposal.notes) == (None, ("participants.tsv lists sub-a3 without an image here",))
    assert "group" in proposal.questions[0]


def test_two_runs_are_one_question(tree):
    files = paths("sub-{who}/anat/sub-{who}_run-{k}_T2w.nii.gz", who=["1", "2", "3"], k=[1, 2])
    proposal = read_bids(tree(*files))
    assert [len(case.images) for case in proposal.cases] == [1, 1, 1]
    assert len(proposal.questions) == 1
    assert "cases with two: 3" in proposal.questions[0]


def test_a_folder_without_subjects_is_none(tree):
    assert read_bids(tree("P1/T1.nii.gz")) is None


def test_folders_above_subjects_declare_sections(tree):
    parts = {"dataset-01training": ["1", "2"], "dataset-02validation": ["3"], "dataset-03test": ["4"]}
    files = [f"{part}/rawdata/sub-{who}/sub-{who}_ct.nii.gz" for part, subjects in parts.items() for who in subjects]
    labels = [file.replace("rawdata", "derivatives").replace("_ct", "_seg-vert_msk") for file in files]
    proposal = read_bids(tree(*files, *(f"L:{file}" for file in labels)))
    assert proposal.sections == {"training": ("sub-1", "sub-2"), "validation": ("sub-3",), "test": ("sub-4",)}


def test_sessions_without_a_common_modality_may_be_one_case(tree):
    first = paths("sub-{who}/ses-01/sub-{who}_ses-01_{what}.nii.gz", who=["1", "2"], what=["ncct", "tmax"])
    second = paths("sub-{who}/ses-02/sub-{who}_ses-02_dwi.nii.gz", who=["1", "2"])
    proposal = read_bids(tree(*first, *second))
    assert len(proposal.cases) == 4
    assert any("no modality in common (sub-1_ses-01: ncct, tmax; sub-1_ses-02: dwi)" in q for q in proposal.questions)
    again = read_bids(tree(*first, *second, "sub-1/ses-02/sub-1_ses-02_ncct.nii.gz"))
    assert not any("in common" in question for question in again.questions)
