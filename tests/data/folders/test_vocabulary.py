"""Words of clinical imaging: a sequence is told alike in every language, spelling and order of words."""

import pytest

from cggm_med.data.folders.vocabulary import (
    never_an_image,
    not_the_target,
    processing_of,
    shown_by,
    spelled,
    tells_label,
    without_processing,
)

NAMES = {
    ("t1", "mri"): [
        "T1", "t1n", "T1W", "T1 tra ohne KM", "T1 vor KM", "AX T1 SANS GADO", "T1 avant injection", "T1 sin contraste",
        "T1 senza mdc", "T1 basale",
        "T1 utan kontrast", "T1 uden kontrast", "T1 przed kontrastem", "T1 before Dotarem",
        "T1 zonder contrast", "T1 blanco", "T1 nativ", "mprage", "UNIT1", "SANS GADO",
        "sub-01_ses-post_T1w", "T1_pre", "T1 pre-op", "T1_to_MNI152", "reg_T1", "2_t1_tse_tra", "T1平扫",
    ],
    ("t1ce", "mri"): [
        "t1gd", "T1WKS", "CT1", "ceT1w", "T1 post KM", "T1 nach KM-Gabe", "Ax T1 GADO", "T1 après injection", "GADO",
        "T1 con contraste",
        "T1 Dotarem", "T1 ProHance", "T1 Gadovist", "T1 Clariscan", "T1 po kontrascie", "T1 med kontrast",
        "T1 potenciada con gadolinio", "T1 con mdc", "T1 dopo mdc", "T1 iniettato", "T1C",
        "T1 met contrast", "ce-gadolinium T1w", "T1 post-op post Gd", "T1c_subtrMeanDivStd", "2_T1GD", "T1增强",
    ],
    ("flair", "mri"): [
        "FLAIR", "t2f", "ax flair T2", "t2_tirm_tra_dark-fluid", "FLAIR_reg_T1", "fla", "flair_time01",
        "space-T1w_desc-preproc_FLAIR",
    ],
    ("t2", "mri"): ["T2", "t2W", "t2_tse_TRA", "acq-sag_T2w", "T2_to_T1", "T2 cor", "T2w FS", "hrT2"],
    ("adc", "map"): ["ADC", "adc", "ADCmap", "ep2d_diff_ADC"],
    ("dwi", "mri"): ["DWI", "hbv", "b1000", "difusión b1000", "Diffusion trace", "diffusione", "rDWI2"],
    ("ct", "ct"): ["CT", "CTres", "CT mit KM", "TDM", "TC", "CTA", "Planning CT"],
    ("pet", "pet"): ["PT", "SUV", "trc-FET_pet", "FDG", "TEP"],
    ("cbf", "map"): ["CT_CBF", "rCBF"],
    ("tmax", "map"): ["CT_Tmax"],
    ("lge", "mri"): ["DE", "LGE", "lgemri", "late gadolinium", "PSIR"],
    ("bssfp", "mri"): ["C0", "bSSFP", "cine"],
    ("pd", "mri"): ["PD", "DP", "PDw", "PDFS", "proton density", "densité protonique"],
    ("swi", "mri"): ["SWI"],
    ("t1 in phase", "mri"): ["T1 in phase", "InPhase"],
    ("t1 opposed phase", "mri"): ["T1DUAL OutPhase", "out of phase", "opposed phase"],
}  # fmt: skip


@pytest.mark.parametrize(("shown", "names"), NAMES.items())
def test_what_names_show(shown, names):
    found = {name: shown_by(name) for name in names}
    assert {name: of and (of.shows, of.kind) for name, of in found.items()} == dict.fromkeys(names, shown)


@pytest.mark.parametrize("names", NAMES.values())
def test_letter_case_and_separators_do_not_count(names):
    for name in names:
        known = shown_by(name)
        if name.startswith("sub-"):
            continue  # the prefix of BIDS is spelled in one way only
        assert [shown_by(name.lower()), shown_by(name.upper())] == [known, known], name
        assert [shown_by(spelled(name).replace(" ", gap)) for gap in "_-."] == [known] * 3, name


@pytest.mark.parametrize(
    "name", ["", "PET-CT", "NODDI_in_T1", "T1T2", "T1 T2", "Localizer", "SUB KM-nativ", "scan", "T1 pre and post"]
)
def test_what_tells_nothing_or_two_things(name):
    assert shown_by(name) is None


def test_labels_in_several_languages():
    labels = "gt seg OT msk wmh ROI Maske Läsion Läsionen lésion masque máscara maschera lesione letsel tumeur Tumor"
    labels += " ground_truth OTMultiClass ManualSegmentation_1 consensus_gt brainmask gtv truth Segm segmentación mask2"
    labels += " corelabel penumbralabel 标注 肿瘤"
    assert [name for name in labels.split() if not tells_label(name)] == []
    assert [
        name
        for name in ("Unlabeled", "training_target", "T1", "flair", "adc", "CT", "PT", "hbv", "C0", "DE", "Gado")
        if tells_label(name)
    ] == []


def test_masks_of_something_else_and_what_is_no_image():
    assert [bool(not_the_target(name)) for name in ("brain_mask", "Hirnmaske", "masque cerveau", "tumor_seg")] == [
        True, True, True, False,
    ]  # fmt: skip
    tumours = ("brain_tumor_mask", "brain_mets_seg", "OAR_Brainstem.seg", "head_neck_tumor_seg")
    assert [name for name in tumours if not_the_target(name)] == []
    assert never_an_image("t1_localizer") == "localizer"
    assert never_an_image("T1 Subtraktion") == "difference of two images"
    assert [never_an_image(name) for name in ("T1", "sub-01_T1w", "flair_sub2", "OT")] == ["", "", "", ""]


def test_copies_of_an_image_have_one_name_without_their_processing():
    names = ("FLAIR", "FLAIR_preprocessed", "flair_pp", "FLAIR_bias", "raw FLAIR")
    assert {without_processing(name) for name in names} == {"flair"}
    assert [processing_of(name) for name in names] == ["", "processed", "processed", "processed", "raw"]
