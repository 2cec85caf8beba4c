"""The phantom is reproducible, laid out as BraTS 2021, shaped like glioma, and not solved voxel by voxel."""

from __future__ import annotations

import runpy
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from cggm_med.data.volumes.phantom.anatomy import hull_of
from cggm_med.data.volumes.phantom.cases import CSF, GREY, WHITE, PhantomCase, make_case, write_phantom
from cggm_med.data.volumes.phantom.grid import Grid
from cggm_med.data.volumes.phantom.scanner import MODALITIES, PRESETS, Scanner, scanners_of
from cggm_med.data.volumes.phantom.tumour import plan_tumour
from cggm_med.errors import ConfigError, UnknownName

SMALL = {"shape": (32, 32, 24), "spacing_mm": 7.5}
SHAPE, SPACING = (60, 60, 40), 4.0
BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks" / "phantom_voxels.py"
REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data"


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [make_case(7, index, SHAPE, SPACING) for index in range(16)]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.nii.gz"))}


def standardised(image: np.ndarray) -> np.ndarray:
    inside = image[image != 0].astype(np.float64)
    return (image - inside.mean()) / inside.std()


def mean_difference(case: PhantomCase, modality: str, a: np.ndarray, b: np.ndarray) -> float:
    """Mean of ``a`` less mean of ``b``, in standard deviations of the brain."""
    z = standardised(case.images[modality])
    return float(z[a].mean() - z[b].mean())


# Reproducibility


def test_a_case_depends_on_seed_and_index_alone_down_to_the_bytes(tmp_path: Path) -> None:
    write_phantom(tmp_path / "one", cases=1, seed=3, **SMALL)
    write_phantom(tmp_path / "three", cases=3, seed=3, **SMALL)
    one, three = files(tmp_path / "one"), files(tmp_path / "three")
    # No two seeds have an id in common: a comparison must not take their patients for the same ones.
    assert {name.split("/")[0] for name in three} == {f"BraTS2021_0300{i}" for i in range(3)}
    assert (len(one), len(three)) == (5, 15)
    assert all(three[name] == content for name, content in one.items())
    # Bytes 4 to 7 of gzip hold the time of writing, which would make equal cases differ.
    assert all(content[4:8] == bytes(4) for content in three.values())


def test_other_seeds_and_other_indices_give_other_cases() -> None:
    first, other_seed, other_index = make_case(0, 0, **SMALL), make_case(1, 0, **SMALL), make_case(0, 1, **SMALL)
    for other in (other_seed, other_index):
        assert not np.array_equal(first.labels, other.labels)
        assert all(not np.array_equal(first.images[m], other.images[m]) for m in MODALITIES)


# Files


def test_files_have_the_layout_and_geometry_of_brats(tmp_path: Path) -> None:
    write_phantom(tmp_path, cases=2, seed=0, **SMALL)
    kinds = ("flair", "t1", "t1ce", "t2", "seg")
    names = {f"BraTS2021_{i:05d}/BraTS2021_{i:05d}_{kind}.nii.gz" for i in (0, 1) for kind in kinds}
    assert set(files(tmp_path)) == names
    for name in names:
        image = nibabel.load(tmp_path / name)
        assert image.shape == (32, 32, 24)
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        # By hand: the last of 32 rows of 7.5 mm is the most posterior one, 31 x 7.5 = 232.5 mm from the first.
        expected = [[-7.5, 0, 0, 0], [0, -7.5, 0, 232.5], [0, 0, 7.5, 0], [0, 0, 0, 1]]
        for affine, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
            np.testing.assert_allclose(affine, expected, atol=1e-5)
            assert code == 1
        assert image.header.get_xyzt_units()[0] == "mm"
        assert image.get_data_dtype() == (np.uint8 if name.endswith("seg.nii.gz") else np.int16)


def test_simpleitk_reads_the_same_geometry_and_values(tmp_path: Path) -> None:
    write_phantom(tmp_path, cases=1, seed=0, **SMALL)
    path = tmp_path / "BraTS2021_00000" / "BraTS2021_00000_t2.nii.gz"
    image = SimpleITK.ReadImage(str(path))
    # ITK's own frame is LPS, where BraTS volumes have no rotation.
    np.testing.assert_allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), (0, -232.5, 0), atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), (7.5, 7.5, 7.5), atol=1e-6)
    written = make_case(0, 0, **SMALL).images["t2"]
    assert np.array_equal(SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0), written)


def test_the_grid_of_brats_itself_holds_a_brain_of_natural_size(cases: list[PhantomCase]) -> None:
    for case in cases:
        litres = (case.tissue > 0).sum() * SPACING**3 * 1e-6
        assert 1.1 < litres < 1.7


# Anatomy and tumour


def test_background_is_zero_and_the_brain_is_not(cases: list[PhantomCase]) -> None:
    for case in cases:
        brain = case.tissue > 0
        assert set(np.unique(case.tissue)) == {0, CSF, GREY, WHITE}
        for image in case.images.values():
            assert np.array_equal(image > 0, brain)
            assert 100 < np.median(image[brain]) < 3000
            assert image.max() < 10_000


def test_labels_are_nested_inside_the_brain(cases: list[PhantomCase]) -> None:
    for case in cases:
        brain, tumour = case.tissue > 0, case.labels > 0
        necrosis, enhancing = case.labels == 1, case.labels == 4
        assert {0, 1} <= set(np.unique(case.labels)) <= {0, 1, 2, 4}
        assert not tumour[~brain].any()
        if enhancing.any():
            # Necrosis lies inside: hardly any of it meets healthy tissue, and some of it meets the enhancing rim.
            healthy = ndimage.binary_dilation(~tumour)
            assert (necrosis & healthy).sum() <= 0.3 * necrosis.sum()
            assert (necrosis & ndimage.binary_dilation(enhancing)).sum() > 0.2 * necrosis.sum()
        assert not ((case.labels == 2) & (case.tissue == CSF)).any()


def test_some_tumours_lack_enhancement_or_oedema_and_some_have_several_foci() -> None:
    rng, grid = np.random.default_rng(0), Grid.of((24, 24, 16), 10.0)
    hull = hull_of(rng, grid)
    plans = [plan_tumour(rng, grid, hull) for _ in range(1000)]
    # Standard error of a share of .1 among 1,000: .01.
    assert np.mean([not plan.enhancing for plan in plans]) == pytest.approx(0.1, abs=0.04)
    assert np.mean([not plan.oedema for plan in plans]) == pytest.approx(0.08, abs=0.04)
    assert not any(not plan.enhancing and not plan.oedema for plan in plans)
    assert np.mean([len(plan.foci) > 1 for plan in plans]) == pytest.approx(0.25, abs=0.06)


def test_sizes_shares_and_sides_vary_as_in_glioma(cases: list[PhantomCase]) -> None:
    diameters = [(6 / np.pi * (case.labels > 0).sum()) ** (1 / 3) * SPACING for case in cases]
    assert min(diameters) > 25
    assert max(diameters) < 75
    assert max(diameters) - min(diameters) > 15
    necrosis, oedema, enhancing = (
        np.mean([(c.labels == v).sum() / (c.labels > 0).sum() for c in cases]) for v in (1, 2, 4)
    )
    assert 0.08 < necrosis < 0.3
    assert 0.45 < oedema < 0.75
    assert 0.12 < enhancing < 0.35
    sides = [np.sign(np.argwhere(case.labels > 0)[:, 0].mean() - (SHAPE[0] - 1) / 2) for case in cases]
    assert {-1.0, 1.0} == set(sides)


def test_head_shrinks_with_a_small_field_of_view() -> None:
    """Smaller voxels show the same, smaller head; a field of view beyond that of BraTS shows one of natural size."""
    small, half = make_case(0, 0, (32, 32, 24), 4.0), make_case(0, 0, (32, 32, 24), 2.0)
    assert np.array_equal(small.labels, half.labels)
    natural = make_case(0, 0, (48, 48, 32), 10.0)
    assert (natural.tissue > 0).sum() * 1e-3 == pytest.approx(1.4, abs=0.3)  # voxels of 1 ml, in litres


# Contrast


def test_contrasts_are_those_of_mri(cases: list[PhantomCase]) -> None:
    def mean(modality: str, a: str, b: str) -> float:
        differences = []
        for case in cases:
            healthy = case.labels == 0
            masks = {
                "csf": (case.tissue == CSF) & healthy,
                "grey": (case.tissue == GREY) & healthy,
                "white": (case.tissue == WHITE) & healthy,
                "necrosis": case.labels == 1,
                "oedema": case.labels == 2,
                "enhancing": case.labels == 4,
            }
            differences.append(mean_difference(case, modality, masks[a], masks[b]))
        return float(np.mean(differences))

    assert mean("flair", "oedema", "white") > 1
    assert mean("flair", "csf", "white") < -0.8
    assert abs(mean("flair", "necrosis", "enhancing")) < 1.2  # so FLAIR alone cannot tell the core's parts
    assert -1.2 < mean("t1", "oedema", "white") < 0
    assert mean("t1", "grey", "white") < -0.8
    assert mean("t1", "necrosis", "white") < -0.7
    assert -1.2 < mean("t1ce", "oedema", "white") < 0
    assert mean("t1ce", "enhancing", "white") > 1
    assert mean("t1ce", "necrosis", "enhancing") < -1.5
    assert mean("t2", "csf", "white") > 1.5
    assert mean("t2", "oedema", "white") > 0.8
    assert mean("t2", "oedema", "csf") < 0  # CSF is the brightest, so brightness in T2 is not oedema


@pytest.mark.skipif(not REAL.exists(), reason="the shared real cases are absent")
def test_oedema_stands_out_as_in_real_scans(cases: list[PhantomCase]) -> None:
    """In standard deviations of the brain: one patient of TCGA, and for FLAIR and T1ce four of BRATS 2013."""
    tcga = REAL / "tcga_du_7294" / "TCGA-DU-7294"
    files = {"flair": "fla", "t1": "t1", "t1ce": "t1c", "t2": "t2"}
    real = {m: [(f"{tcga}_{short}_bet.nii.gz", f"{tcga}_silver_seg.nii.gz")] for m, short in files.items()}
    for patient in sorted((REAL / "brats2013_3d").iterdir()):
        for modality, name in {"flair": "Flair", "t1ce": "T1c"}.items():
            real[modality].append((f"{patient}/{name}_subtrMeanDivStd.nii.gz", f"{patient}/OTMultiClass.nii.gz"))
    for modality, scans in real.items():
        means = []
        for image, label in scans:
            values, labels = (np.asanyarray(nibabel.load(path).dataobj) for path in (image, label))
            values = np.where(values == values[0, 0, 0], 0, values)  # the background
            means.append(standardised(values)[(labels == 2) & (values != 0)].mean())
        drawn = [standardised(case.images[modality])[case.labels == 2].mean() for case in cases]
        assert np.mean(drawn) == pytest.approx(np.mean(means), abs=0.7), modality


def test_single_voxels_do_not_solve_it_and_every_modality_is_needed(cases: list[PhantomCase]) -> None:
    """A look-up table of intensities is not enough: the rest is texture, shape and place, which a network can learn."""
    trees_dice = runpy.run_path(str(BENCHMARK))["trees_dice"]

    def dice(modalities: tuple[str, ...]) -> float:
        return float(np.mean(list(trees_dice(cases, modalities).values())))

    together = dice(MODALITIES)
    assert 0.4 < together < 0.5
    for modality in MODALITIES:
        assert dice(tuple(m for m in MODALITIES if m != modality)) < together - 0.02, modality


# Scanners


def white_deviation(case: PhantomCase, modality: str) -> float:
    """Standard deviation between neighbours in white matter, in which the bias field hardly counts."""
    white = ndimage.binary_erosion((case.tissue == WHITE) & (case.labels == 0))
    image = case.images[modality].astype(np.float64)
    difference = (image - np.roll(image, 1, 0))[white & np.roll(white, 1, 0)]
    return float(difference.std() / image[white].mean())


def test_another_scanner_shows_the_same_patient_and_changes_no_other_image() -> None:
    usual = make_case(0, 0, SHAPE, SPACING)
    for scanner in (Scanner(noise=2), Scanner(contrast=0), Scanner(resolution_mm=12), Scanner(slice_mm=12)):
        other = make_case(0, 0, SHAPE, SPACING, {"t1ce": scanner})
        assert np.array_equal(other.labels, usual.labels)
        for modality in MODALITIES:
            assert np.array_equal(other.images[modality], usual.images[modality]) == (modality != "t1ce")


def test_noise_contrast_and_resolution_are_those_asked_for() -> None:
    def case(**values: float) -> PhantomCase:
        return make_case(0, 0, SHAPE, SPACING, {"t1ce": Scanner(**values)})

    usual = case()
    assert white_deviation(case(noise=2), "t1ce") == pytest.approx(2 * white_deviation(usual, "t1ce"), rel=0.1)
    assert white_deviation(case(noise=0), "t1ce") < 0.5 * white_deviation(usual, "t1ce")

    def rim(case: PhantomCase) -> float:
        return mean_difference(case, "t1ce", case.labels == 4, (case.tissue == WHITE) & (case.labels == 0))

    assert rim(case(contrast=0)) + 1 < rim(usual) < rim(case(contrast=1.5)) - 0.3

    def step(case: PhantomCase, axis: int) -> float:
        image = standardised(case.images["t1ce"])
        return float(np.abs(np.diff(image, axis=axis)).mean())

    thick = case(slice_mm=12)
    assert step(thick, 2) < 0.7 * step(usual, 2)
    assert step(thick, 0) > 0.7 * step(usual, 0)
    assert all(step(case(resolution_mm=12), axis) < 0.7 * step(usual, axis) for axis in range(3))


def test_modalities_share_their_bias_field(cases: list[PhantomCase]) -> None:
    corners = []  # mean signal of white matter in eight corners of each head, by modality
    for case in cases:
        white = (case.tissue == WHITE) & (case.labels == 0)
        corner = np.ravel_multi_index(np.indices(SHAPE) // (np.array(SHAPE)[:, None, None, None] / 2) == 1, (2, 2, 2))
        means = [[case.images[m][white & (corner == k)].mean() for k in range(8)] for m in ("t1", "t2")]
        corners.append([np.log(each) - np.mean(np.log(each)) for each in means])
    t1, t2 = np.array(corners).transpose(1, 0, 2).reshape(2, -1)
    assert np.corrcoef(t1, t2)[0, 1] > 0.4


def test_presets_and_changes() -> None:
    assert set(PRESETS) == {"balanced", "imbalanced", "thick_slices"}
    assert all(scanner == Scanner() for scanner in scanners_of("balanced", {}, "key").values())
    changed = scanners_of("thick_slices", {"flair": {"noise": 3}}, "key")
    assert changed["flair"] == Scanner(noise=3, slice_mm=5)
    assert changed["t1ce"] == Scanner()


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("balance", {}, "no preset of the phantom 'balance'"),
        ("balanced", {"t1c": {"noise": 2}}, "no modality of data.phantom_scanners 't1c'"),
        ("balanced", {"t1": {"noises": 2}}, "no value of data.phantom_scanners.t1 'noises'"),
        ("balanced", {"t1": {"noise": -1}}, "data.phantom_scanners.t1.noise is -1, expected at least 0 and finite"),
    ],
)
def test_impossible_scanners_are_refused(preset: str, changes: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises((UnknownName, ConfigError), match=message):
        scanners_of(preset, changes, "data.phantom_scanners")


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": 0}, "cases is 0, expected 1 to 1000"),
        ({"cases": 1001}, "cases is 1001, expected 1 to 1000"),
        ({"seed": -1}, "expected a seed of 0 or more"),
        ({"spacing_mm": 0.0}, "a spacing above 0"),
        ({"spacing_mm": float("nan")}, "a spacing above 0"),
        ({"shape": (1, 32, 32)}, "2 voxels or more"),
        ({"shape": (16, 16, 16)}, "expected at most 10.0 mm; choose at least 24 x 24 x 16 voxels"),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_phantom(tmp_path, **{"cases": 1, "seed": 0, **SMALL, **change})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
