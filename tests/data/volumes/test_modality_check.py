"""Signatures: gain does not matter, names follow the images, every exchange is found, and nothing else is refused."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cggm_med.data.checks.cohort import learn
from cggm_med.data.checks.heads import depth_of
from cggm_med.data.checks.looks import ScanFeatures, looks_of
from cggm_med.data.checks.measure import measure
from cggm_med.data.layouts import find_cases
from cggm_med.data.volumes.modality_check import (
    Signatures,
    SwapFinding,
    judge,
    judge_each,
    summarise,
)
from cggm_med.data.volumes.preprocess import Preprocessing, prepare
from cggm_med.errors import DataError, UnknownName
from cggm_med_tasks.brats2021 import BraTS2021

MODALITIES = ("flair", "t1", "t1ce", "t2")


def select(features, names):
    """Features of some of the four modalities."""
    chosen = [MODALITIES.index(name) for name in names]
    return ScanFeatures(features.single[chosen], features.pair[np.ix_(chosen, chosen)])


def seen(image):
    """Features of images in which 0 is outside the body."""
    bodies = image != 0
    return looks_of(image, bodies, depth_of(bodies.any(0), (1, 1)) if len(image) else None)


def check(known, image, names):
    return judge(known, seen(image), names)


def brain(seed=0, shape=(24, 26, 22)):
    """Three images of a ball with a bright rim: two that fall and rise with depth, and one that is noise alone."""
    random = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1.1, 1.1, n) for n in shape), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    noise = random.normal(size=(3, *shape))
    images = [radius + 0.1 * noise[0], np.exp(-3 * radius) + 0.1 * noise[1], noise[2]]
    return np.where(radius < 1, np.array(images), 0).astype(np.float32)


@pytest.fixture(scope="module")
def prepared(phantom, cache):
    found = find_cases(
        phantom,
        MODALITIES,
        BraTS2021.layouts,
        decathlon_modalities={},
        decathlon_convention="brats2021",
        known_modalities=MODALITIES,
    )
    convention = BraTS2021.conventions["brats2021"]
    return prepare(found.cases, Preprocessing(MODALITIES, convention), cache)


@pytest.fixture(scope="module")
def signatures(prepared):
    return learn(prepared[:4], MODALITIES)


# Measuring


@settings(max_examples=20)
@given(gain=st.floats(0.01, 100), offset=st.floats(0.1, 1000), modality=st.integers(0, 2))
def test_gain_and_offset_inside_the_brain_change_nothing(gain, offset, modality):
    image = brain().astype(np.float64)
    changed = image.copy()
    changed[modality] = np.where(image[modality] != 0, gain * (image[modality] - image[modality].min()) + offset, 0)
    before, after = seen(image), seen(changed)
    np.testing.assert_allclose(after.single, before.single, atol=1e-6)
    np.testing.assert_allclose(after.pair, before.pair, atol=1e-6)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_features_follow_the_images(order):
    before, after = seen(brain()), seen(brain()[list(order)])
    np.testing.assert_allclose(after.single, before.single[list(order)])
    np.testing.assert_allclose(after.pair, before.pair[np.ix_(order, order)])


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_mirrored_images_have_the_same_features(axis):
    before, after = seen(brain()), seen(np.flip(brain(), axis))
    np.testing.assert_allclose(after.single, before.single, atol=1e-9)
    np.testing.assert_allclose(after.pair, before.pair, atol=1e-6)


def test_numbers_by_hand():
    """The voxels 1 to 1001 without a background: median 501, quartiles 251 and 751, so 1 stands for 500 / 1.349."""
    ramp = np.arange(1.0, 1002.0).reshape(1001, 1, 1)
    features = seen(np.stack([ramp, -(ramp**2)]))
    unit = 500 / 1.349
    at = np.array([11, 51, 101, 251, 751, 901, 951, 991])
    np.testing.assert_allclose(features.single[0, :8], np.arcsinh((at - 501) / unit))
    assert np.isnan(features.single[:, 8:]).all()  # where there is no outside there is no depth
    # Bins of a ramp over the other image, its mirrored square: the lowest values go with the highest of the ramp.
    middles = np.array([976.5, 851.5, 626.5, 376.5, 151.5, 26]) - [0.5, 0.5, 0.5, 0.5, 0.5, 0]
    np.testing.assert_allclose(features.pair[1, 0, :6], np.arcsinh((middles - 501) / unit), atol=2.5e-3)
    assert features.pair[0, 1, 6] == pytest.approx(stats.pearsonr(ramp.ravel(), -(ramp.ravel() ** 2)).statistic)


def test_layers_run_from_the_surface_to_the_centre():
    """An image that is the distance from the surface itself rises from layer to layer."""
    rim = brain()
    layers = seen(np.where(rim[:1] != 0, -rim[:1], 0)).single[0, 8:]
    assert (np.diff(layers) > 0.3).all()


def test_asymmetry_is_the_skewness_of_the_difference():
    """Independent authority: scipy. A few voxels that light up in the second image make the tail point to it."""
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 20, 20, 20))
    second.ravel()[:200] += 20
    features = seen(np.stack([first, second]))
    scaled = [(v - np.median(v)) / (stats.iqr(v) / 1.349) for v in (first, second)]
    expected = np.arcsinh(stats.skew((scaled[0] - scaled[1]).ravel()))
    assert features.pair[0, 1, 7] == pytest.approx(expected)
    assert expected < -2
    np.testing.assert_allclose(features.pair[1, 0, 7:], -features.pair[0, 1, 7:])


def test_a_large_case_is_thinned_and_keeps_its_features():
    image = np.kron(brain(shape=(36, 36, 36)), np.ones((1, 3, 3, 3), np.float32))
    images = dict(zip("abc", image, strict=True))
    found = ScanFeatures.of_record(measure(images, np.eye(4), dict.fromkeys("abc", 0.0))["looks"])
    np.testing.assert_allclose(found.single[:, :8], seen(brain(shape=(36, 36, 36))).single[:, :8], atol=0.15)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda image: image * 0, "only 0 voxels"),
        (lambda image: image[:, :3, :3, :3], "only 0 voxels"),
        (lambda image: (image != 0).astype(np.float32), "constant"),
        (lambda image: np.ones_like(image), "constant"),
        (lambda image: np.where(image > 1, np.nan, image), "NaN"),
        (lambda image: image * np.array([1, np.inf, 1])[:, None, None, None], "NaN or infinity"),
        (lambda image: image * np.array([1, 0, 1])[:, None, None, None], "only 0 voxels"),
    ],
    ids=["empty", "corner", "flat", "flat everywhere", "nan", "infinite", "one empty"],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
def test_what_cannot_be_measured_is_not_judged(spoil, reason):
    names = ("a", "b", "c")
    known = summarise([seen(brain(seed)) for seed in range(3)], names)
    finding = check(known, spoil(brain()), names)
    assert finding.verdict == "unknown"
    assert reason in finding.reason
    assert reason in finding.describe()


# Learning


def test_signatures_are_the_means_over_cases():
    measured = [seen(brain(seed)) for seed in range(5)]
    known = summarise(measured, ("a", "b", "c"))
    singles = np.array([f.single.ravel() for f in measured])
    np.testing.assert_allclose(known.single.mean, singles.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(known.single.deviation, singles.std(axis=0, ddof=1), atol=1e-4)
    assert set(known.single.count) == {5}
    assert set(known.pair.count) == {0, 5}  # an image is not compared with itself
    assert [names for names, _ in known.slack][:4] == [("a",), ("b",), ("c",), ("a", "b")]


def test_a_feature_that_is_missing_in_some_cases_is_learned_from_the_others():
    whole = seen(brain())
    inside = replace(whole, single=np.where(np.arange(13) < 8, whole.single, np.nan))
    known = summarise([whole, inside], ("a", "b", "c"))
    assert known.single.count == (*[2] * 8, *[1] * 5) * 3
    np.testing.assert_allclose(known.single.mean, whole.single.ravel(), atol=1e-4)


def test_training_cases_that_look_alike_in_two_modalities_widen_the_margin():
    """Noise under two names: nothing tells them apart, so that nothing must be concluded."""
    noise = [np.stack([brain(2 * seed)[2], brain(2 * seed + 1)[2]]) for seed in range(12)]
    known = summarise([seen(image) for image in noise], ("a", "b"))
    assert dict(known.slack)["a", "b"] > 0
    other = np.stack([brain(100)[2], brain(101)[2]])
    assert check(known, other, ("a", "b")).verdict == check(known, other[::-1], ("a", "b")).verdict == "fits"


def test_cases_are_spread_over_a_long_list_and_those_without_signal_left_out():
    images = [brain(seed) if seed != 299 else 0 * brain() for seed in range(300)]
    asked = []

    class Stored(SimpleNamespace):
        @property
        def measured(self):
            asked.append(self.i)
            looks = seen(images[self.i])
            return {"looks": looks if isinstance(looks, str) else looks.record()}

    known = learn([Stored(i=i, modalities=("a", "b", "c")) for i in range(300)], ("a", "b", "c"))
    assert (asked[0], asked[-1], len(asked), len(set(asked))) == (0, 299, 100, 100)
    assert known.cases == 99


@pytest.mark.parametrize("cases", [0, 1, 4])
def test_json_round_trip(cases):
    known = summarise([seen(brain(seed)) for seed in range(cases)], ("a", "b", "c"))
    assert Signatures.from_json(known.to_json()) == known
    assert len(known.to_json()) < 10_000


def test_what_an_earlier_version_measured_is_not_judged():
    known = summarise([seen(brain())], ("a", "b", "c"))
    assert Signatures.from_json(json.dumps({**json.loads(known.to_json()), "version": 1})) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: {**c, "version": 99},
        lambda c: {**c, "modalities": ["a", "b"]},
        lambda c: {**c, "single": {**c["single"], "mean": c["single"]["mean"][:-1]}},
        lambda c: {**c, "single": {**c["single"], "deviation": None}},
        lambda c: {k: v for k, v in c.items() if k != "pair"},
        lambda c: {**c, "slack": [["a"]]},
        lambda c: [c],
    ],
    ids=["version", "modality", "length", "null", "key", "slack", "list"],
)
def test_damaged_signatures_are_refused_in_one_line(spoil):
    known = summarise([seen(brain())], ("a", "b", "c"))
    with pytest.raises(DataError, match="signatures .* copy the run folder anew") as error:
        Signatures.from_json(json.dumps(spoil(json.loads(known.to_json()))))
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="cannot be read"):
        Signatures.from_json(known.to_json()[:-5])


# Checking


def test_the_advantage_is_a_ratio_of_students_t_densities():
    """Independent authority: scipy's density. One feature differs between the names, so it alone decides."""
    single = np.zeros((2, 13))
    single[0, 0], single[1, 0] = 1.0, -1.0
    flat = ScanFeatures(single, np.zeros((2, 2, 9)))
    known = summarise([flat], ("a", "b"))
    image = brain()[:1]
    value = seen(image).single[0, 0]
    scale = 0.25 * np.sqrt(2)  # the usual spread, and as much again since the mean comes from one case
    expected = (stats.t.logpdf(value, 4, -1, scale) - stats.t.logpdf(value, 4, 1, scale)) / 8
    finding = check(known, image, ("a",))
    assert finding.advantage == pytest.approx(expected, abs=1e-3)
    assert (finding.best, finding.margin) == (("b",), 3.0)


def test_training_cases_are_never_refused(prepared, signatures):
    for case in prepared[:4]:
        features = seen(case.image())
        for size in range(1, 5):
            for names in itertools.combinations(MODALITIES, size):
                assert judge(signatures, select(features, names), names).verdict == "fits", names


def test_every_exchange_among_four_modalities_is_found_in_new_cases(prepared, signatures):
    for case in prepared[4:]:
        features = seen(case.image())
        for names in itertools.permutations(MODALITIES):
            finding = judge(signatures, features, names)
            assert (finding.verdict == "swapped") == (names != MODALITIES), names
            assert names == MODALITIES or finding.best == MODALITIES


def test_checking_some_images_is_judging_their_features(prepared, signatures):
    image = prepared[4].image()
    whole = judge(signatures, select(seen(image), ("flair", "t2")), ("t2", "flair"))
    assert check(signatures, image[[0, 3]], ("t2", "flair")) == whole
    assert (whole.verdict, whole.best) == ("swapped", ("flair", "t2"))


@pytest.mark.parametrize("name", ["flair", "t1", "t1ce"])
def test_a_single_image_under_a_name_that_does_not_fit_is_found(prepared, signatures, name):
    finding = check(signatures, prepared[5].image()[3:], (name,))
    assert (finding.verdict, finding.best) == ("swapped", ("t2",))
    assert finding.describe().startswith(f"the image given as {name} looks like t2 (better by ")


def test_the_order_in_which_images_are_given_does_not_matter(prepared, signatures):
    image = prepared[5].image()
    straight = check(signatures, image, ("t1", "flair", "t1ce", "t2"))
    turned = check(signatures, image[::-1], ("t2", "t1ce", "flair", "t1"))
    assert turned.advantage == pytest.approx(straight.advantage, abs=2e-3)
    assert (turned.verdict, turned.margin) == (straight.verdict, straight.margin)


def test_harmless_changes_are_not_refused(prepared, signatures):
    random = np.random.default_rng(0)
    image = np.array(prepared[4].image())
    inside = image != 0
    slope = np.linspace(0.85, 1.15, image.shape[1])[:, None, None]
    lowest = image.min(axis=(1, 2, 3), keepdims=True)
    changes = {
        "gain": np.where(inside, 40 * image + 300, 0),
        "noise": np.where(inside, image + 0.15 * random.normal(size=image.shape), 0),
        "bias field": np.where(inside, (image - lowest + 0.1) * slope, 0),
        "cut": image[..., image.shape[3] // 3 :],
        "coarse": image[:, ::2, ::2, ::2],
        "mirrored": image[:, ::-1],
    }
    for what, changed in changes.items():
        assert check(signatures, changed, MODALITIES).verdict == "fits", what


def test_names_are_checked(signatures):
    with pytest.raises(UnknownName, match="no modality 't1c'. Did you mean 't1"):
        check(signatures, brain(), ("flair", "t1c", "t2"))
    with pytest.raises(ValueError, match="each name once"):
        check(signatures, brain(), ("flair", "t1", "t1"))


def test_without_another_name_or_a_training_case_it_cannot_tell():
    assert check(summarise([seen(brain()[:1])], ("a",)), brain()[:1], ("a",)).verdict == "unknown"
    assert check(summarise([], ("a", "b")), brain()[:2], ("a", "b")).verdict == "unknown"
    many = tuple("abcdefg")
    image = np.concatenate([brain(seed) for seed in range(3)])[:7]
    assert "7 modalities" in check(summarise([seen(image)], many), image, many).reason


def test_a_file_given_twice_is_judged():
    known = summarise([seen(brain(seed)) for seed in range(3)], ("a", "b", "c"))
    assert check(known, brain(9)[[0, 0]], ("a", "b")).verdict in ("fits", "swapped")


def test_a_finding_says_which_images_are_named_wrongly():
    finding = SwapFinding("swapped", ("flair", "t1", "t2"), ("t1", "flair", "t2"), 9.04, 2.5)
    assert finding.describe() == (
        "the image given as flair looks like t1, the image given as t1 looks like flair (better by 9.0, 2.5 would do)"
    )


# Real scans


def slices(shared_data, patient):
    """One axial slice of each modality of a BRATS 2013 patient."""
    number, folder = (90, 90, 95, 94, 95)[patient], f"brats2013_2d/BRATS_HG000{patient + 1}"
    paths = [
        shared_data(f"{folder}/BRATS_HG000{patient + 1}_{n}_slice{number}.nii.gz") for n in ("FLAIR", "T1", "T1C", "T2")
    ]
    image = np.stack([np.asarray(nib.load(path).dataobj, np.float32) for path in paths])
    return image[..., None]  # 0 is outside the brain, as in a prepared case


def test_exchanges_are_found_in_real_patients_who_were_not_learned_from(shared_data):
    patients = [seen(slices(shared_data, patient)) for patient in range(5)]
    missed = 0
    for patient, features in enumerate(patients):
        known = summarise([f for f in patients if f is not features], MODALITIES)
        for size in range(1, 5):
            for names in itertools.combinations(MODALITIES, size):
                assert judge(known, select(features, names), names).verdict == "fits", (patient, names)
        missed += sum(judge(known, features, n).verdict == "fits" for n in itertools.permutations(MODALITIES)) - 1
    assert missed <= 2  # of 115


def test_exchanges_are_found_in_a_real_volume_of_another_collection(shared_data):
    known = summarise([seen(slices(shared_data, patient)) for patient in range(5)], MODALITIES)
    paths = [shared_data(f"tcga_du_7294/TCGA-DU-7294_{name}_bet.nii.gz") for name in ("fla", "t1", "t1c", "t2")]
    features = seen(np.stack([np.asarray(nib.load(path).dataobj, np.float32)[::2, ::2, ::2] for path in paths]))
    for names in itertools.permutations(MODALITIES):
        assert (judge(known, features, names).verdict == "swapped") == (names != MODALITIES), names


# Training cases that lack modalities


def without(case, lost):
    """The prepared case without a modality."""
    held = [m for m in MODALITIES if m != lost]
    image = np.array(case.image())[[MODALITIES.index(m) for m in held]]
    return SimpleNamespace(measured={"looks": seen(image).record()}, modalities=tuple(held))


def test_a_modality_is_learned_from_the_cases_that_have_it(prepared):
    """Here from two of three; the others' numbers are those without it as well."""
    found = learn([without(prepared[0], "t2"), *prepared[1:3]], MODALITIES)
    counts = np.reshape(found.single.count, (len(MODALITIES), -1)).max(axis=1)
    assert counts.tolist() == [3, 3, 3, 2]
    alone = learn(prepared[1:3], MODALITIES)
    last = slice(3 * 13, None)
    assert found.single.mean[last] == alone.single.mean[last]
    assert found.single.deviation[last] == alone.single.deviation[last]


def test_incomplete_cases_still_tell_the_modalities_apart(prepared):
    lost = ("t2", "t1", "flair", "t1ce")
    found = learn([without(case, m) for case, m in zip(prepared[:4], lost, strict=True)], MODALITIES)
    image = np.array(prepared[4].image())
    assert check(found, image, MODALITIES).verdict == "fits"
    assert check(found, image, ("flair", "t2", "t1ce", "t1")).verdict == "swapped"


def test_each_training_case_is_judged_by_the_others(prepared):
    """One of six has the names of two images exchanged: that one is found, and no other."""
    sound = [seen(np.array(case.image())) for case in prepared]
    order = [1, 0, 2, 3]
    odd = ScanFeatures(sound[2].single[order], sound[2].pair[np.ix_(order, order)])
    assert [found.verdict for found in judge_each(sound, MODALITIES)] == ["fits"] * 6
    found = judge_each([*sound[:2], odd, *sound[3:]], MODALITIES)
    assert [case.verdict for case in found] == ["fits", "fits", "swapped", "fits", "fits", "fits"]
    assert found[2].best == ("t1", "flair", "t1ce", "t2")
    assert {case.verdict for case in judge_each(sound[:3], MODALITIES)} == {"unknown"}


def test_features_go_through_plain_values():
    features = seen(brain(3))
    features.single[0, 0] = np.nan
    again = ScanFeatures.of_record(json.loads(json.dumps(features.record())))
    np.testing.assert_allclose(again.single, features.single, atol=1e-6)
    np.testing.assert_allclose(again.pair, features.pair, atol=1e-6)
    assert ScanFeatures.of_record("there is no image") == "there is no image"
