"""The phantom is reproducible, laid out as BraTS 2021, shaped like glioma, and not solved by any single modality."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from cggm_med.data.volumes.phantom import CSF, GREY, MODALITIES, WHITE, PhantomCase, make_case, write_phantom
from cggm_med.errors import ConfigError

SMALL = {"shape": (32, 32, 24), "spacing_mm": 7.5}
SHAPE, SPACING = (60, 60, 40), 4.0
REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
REAL = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "tcga_du_7294"


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


def test_every_case_has_all_labels_nested_inside_the_brain(cases: list[PhantomCase]) -> None:
    for case in cases:
        brain, tumour = case.tissue > 0, case.labels > 0
        necrosis, enhancing = case.labels == 1, case.labels == 4
        assert set(np.unique(case.labels)) == {0, 1, 2, 4}
        assert not tumour[~brain].any()
        # Necrosis lies inside: hardly any of it meets healthy tissue, and some of it meets the enhancing rim.
        healthy = ndimage.binary_dilation(~tumour)
        assert (necrosis & healthy).sum() <= 0.2 * necrosis.sum()
        assert (necrosis & ndimage.binary_dilation(enhancing)).sum() > 0.3 * necrosis.sum()
        assert not ((case.labels == 2) & (case.tissue == CSF)).any()


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

    assert mean("flair", "oedema", "white") > 1.3
    assert mean("flair", "csf", "white") < -1
    assert abs(mean("flair", "necrosis", "enhancing")) < 1.2  # so FLAIR alone cannot tell the core's parts
    assert -1.2 < mean("t1", "oedema", "white") < 0
    assert mean("t1", "grey", "white") < -0.8
    assert mean("t1", "necrosis", "white") < -1
    assert -1.2 < mean("t1ce", "oedema", "white") < 0
    assert mean("t1ce", "enhancing", "white") > 1
    assert mean("t1ce", "necrosis", "enhancing") < -2
    assert mean("t2", "csf", "white") > 1.5
    assert mean("t2", "oedema", "white") > 0.8
    assert mean("t2", "oedema", "csf") < 0  # CSF is the brightest, so brightness in T2 is not oedema


@pytest.mark.skipif(not REAL.exists(), reason="the shared TCGA case is absent")
def test_oedema_stands_out_as_in_a_real_scan(cases: list[PhantomCase]) -> None:
    labels = np.asanyarray(nibabel.load(REAL / "TCGA-DU-7294_silver_seg.nii.gz").dataobj)
    for modality, short in {"flair": "fla", "t1": "t1", "t1ce": "t1c", "t2": "t2"}.items():
        image = np.asanyarray(nibabel.load(REAL / f"TCGA-DU-7294_{short}_bet.nii.gz").dataobj).astype(np.float64)
        real = standardised(image)[(labels == 2) & (image != 0)].mean()
        drawn = np.mean([standardised(case.images[modality])[case.labels == 2].mean() for case in cases])
        assert drawn == pytest.approx(real, abs=0.7), modality


def voxelwise_dice(cases: list[PhantomCase], modalities: tuple[str, ...], bins: int) -> float:
    """Mean Dice over regions of the best rule that sees one voxel's intensities: a histogram of half the cases."""
    cells, truth = [], []
    for case in cases:
        brain = case.tissue > 0
        z = np.stack([standardised(case.images[m])[brain] for m in modalities])
        cells.append(
            np.ravel_multi_index(tuple(np.clip((z + 3) / 7 * bins, 0, bins - 1).astype(int)), (bins,) * len(z))
        )
        truth.append(case.labels[brain])
    half, size = len(cases) // 2, bins ** len(modalities)
    scores = []
    for values in REGIONS.values():
        inside = [np.isin(labels, values) for labels in truth]
        total = sum(np.bincount(cell, minlength=size) for cell in cells[:half])
        positive = sum(np.bincount(c, weights=w, minlength=size) for c, w in zip(cells[:half], inside, strict=False))
        share = positive / np.maximum(total, 1)

        def dice(threshold: float, share: np.ndarray = share, inside: list[np.ndarray] = inside) -> float:
            pairs = zip([share[cell] > threshold for cell in cells[half:]], inside[half:], strict=True)
            return float(np.mean([2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in pairs]))

        scores.append(max(dice(threshold) for threshold in (0.1, 0.2, 0.3, 0.4, 0.5)))
    return float(np.mean(scores))


def test_no_single_modality_solves_it_and_they_differ_in_strength(cases: list[PhantomCase]) -> None:
    single = {modality: voxelwise_dice(cases, (modality,), bins=60) for modality in MODALITIES}
    together = voxelwise_dice(cases, MODALITIES, bins=10)
    assert together > 0.65
    assert max(single.values()) < together - 0.15
    assert max(single.values()) > 2 * min(single.values())
    # What FLAIR and T1ce know is complementary.
    assert voxelwise_dice(cases, ("flair", "t1ce"), bins=30) > max(single.values()) + 0.1


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
        ({"shape": (16, 16, 16)}, "15.0 mm of a head of natural size, expected at most 10.0 mm"),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        write_phantom(tmp_path, **{"cases": 1, "seed": 0, **SMALL, **change})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
