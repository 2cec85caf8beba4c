"""Artefacts: nothing at severity 0, more with every severity, never outside the brain, and as much as is said."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from cggm_med.data.volumes.artefacts import ARTEFACTS, GHOSTS, SEVERITIES, corrupt
from cggm_med.data.volumes.phantom.cases import make_case
from cggm_med.errors import UnknownName

NAMES = tuple(ARTEFACTS)
SPACING = (5.0, 5.0, 5.0)
each_artefact = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def scan():
    return make_case(0, 0, (48, 48, 32), 5.0).images["flair"].astype(np.float32)


@pytest.fixture(scope="module")
def everywhere():
    """A volume without constant background, so that all of k-space can be looked at."""
    random = np.random.default_rng(0)
    return 100 + random.normal(0, 10, (32, 24, 40)).astype(np.float32)


def distances(scan, name, seed, spacing=SPACING):
    brain = scan != 0
    changed = [corrupt(scan, spacing, name, severity, seed) for severity in (0, *SEVERITIES)]
    return [float(np.sqrt(np.mean((x - scan)[brain].astype(np.float64) ** 2))) for x in changed]


@each_artefact
def test_severity_0_is_the_scan_itself(scan, name):
    same = corrupt(scan, SPACING, name, 0, seed=3)
    assert same.tobytes() == scan.tobytes()
    assert same is not scan


@each_artefact
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_severity_is_further_from_the_scan(scan, name, seed):
    far = distances(scan, name, seed)
    assert far[0] == 0
    assert all(np.diff(far) > 0), far


@each_artefact
def test_the_same_arguments_give_the_same_bits(scan, name):
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    one = corrupt(scan, SPACING, name, 3, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert corrupt(scan, SPACING, name, 3, seed=5).tobytes() == one.tobytes()
    assert not np.array_equal(corrupt(scan, SPACING, name, 3, seed=7), one)


@each_artefact
@pytest.mark.parametrize("background", [0.0, -3.5, 400.0])
def test_the_background_is_untouched(scan, name, background):
    """Also where it is not the darkest value, as 0 around a brain that was z-scored."""
    shifted = np.where(scan == 0, np.float32(background), scan)
    changed = corrupt(shifted, SPACING, name, 5, seed=0)
    assert (changed[scan == 0] == background).all()
    assert (changed[scan != 0] != shifted[scan != 0]).mean() > 0.95
    assert changed.dtype == np.float32


@each_artefact
def test_units_do_not_matter(scan, name):
    """Scaled and shifted numbers are the same image, so they get the same artefact."""
    scaled = np.where(scan == 0, np.float32(-7), 0.01 * scan - 7)
    one, other = corrupt(scan, SPACING, name, 4, seed=1), corrupt(scaled, SPACING, name, 4, seed=1)
    np.testing.assert_allclose(other, 0.01 * one - 7, atol=2e-3)


@each_artefact
def test_without_a_constant_background_all_is_brain(everywhere, name):
    changed = corrupt(everywhere, (1, 1, 1), name, 5, seed=0)
    assert (changed != everywhere).mean() > 0.99


@each_artefact
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 3, 3), (2, 9, 30), (7, 1, 7)], ids=str)
def test_tiny_volumes(name, shape):
    volume = np.random.default_rng(0).random(shape, dtype=np.float32)
    for severity in SEVERITIES:
        changed = corrupt(volume, (1, 1, 4), name, severity, seed=0)
        assert changed.shape == shape
        assert np.isfinite(changed).all()


@pytest.mark.parametrize(("severity", "amount"), list(zip(SEVERITIES, (0.1, 0.25, 0.5, 0.75, 1.0), strict=True)))
def test_noise_has_the_deviation_that_it_says(scan, severity, amount):
    brain = scan != 0
    noise = (corrupt(scan, SPACING, "noise", severity, seed=0) - scan)[brain]
    assert noise.std() / scan[brain].std() == pytest.approx(amount, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=4 * noise.std() / np.sqrt(brain.sum()))


@pytest.mark.parametrize(("severity", "amount"), list(zip(SEVERITIES, (1.25, 1.5, 2, 3, 4), strict=True)))
def test_bias_has_the_gain_that_it_says(scan, severity, amount):
    brain = scan > scan[scan != 0].min()  # the darkest voxel has no signal, hence no gain
    lowest = scan.min()
    gain = (corrupt(scan, SPACING, "bias", severity, seed=2)[brain] - lowest) / (scan[brain] - lowest)
    low, middle, high = np.percentile(gain, [5, 50, 95])
    assert high / low == pytest.approx(amount, rel=0.01)
    assert middle == pytest.approx(1, rel=0.01)


def test_spike_is_one_wave_of_the_amplitude_that_it_says(everywhere):
    wave = corrupt(everywhere, (1, 1, 1), "spike", 5, seed=0) - everywhere
    spectrum = np.abs(np.fft.fftn(wave)) / wave.size
    # The cosine of amplitude A has A / 2 at its frequency and at that of the opposite sign.
    highest = np.sort(spectrum.ravel())[::-1]
    assert highest[:2] == pytest.approx(2 * everywhere.std() / 2, rel=1e-3)
    assert highest[2] < 1e-3 * highest[0]
    where = np.unravel_index(spectrum.argmax(), spectrum.shape)
    for step, n in zip(where, wave.shape, strict=True):
        assert 4 <= n / min(step, n - step) <= 24


def test_ghosts_by_fourier_transform(everywhere):
    severity, amount = 4, 0.8
    changed = corrupt(everywhere, (1, 1, 1), "ghosting", severity, seed=0)
    lowest = everywhere.min()
    ratio = np.fft.fftn(changed - lowest) / np.fft.fftn(everywhere - lowest)
    (axis,) = (
        a for a in range(3) if np.ptp(np.moveaxis(ratio.real, a, 0).reshape(ratio.shape[a], -1), axis=1).max() < 0.1
    )
    along = np.moveaxis(ratio.real, axis, 0).reshape(ratio.shape[axis], -1).mean(1)
    n = len(along)
    weakened = np.flatnonzero(np.abs(along - (1 - amount)) < 0.01)
    assert weakened.tolist() == [k for k in range(n) if k % GHOSTS == 0 and k != 0]
    np.testing.assert_allclose(np.delete(along, weakened), 1, atol=0.01)
    # What one voxel becomes: itself and ghosts at every quarter of the field of view, of a quarter of the amount.
    ghosts = np.fft.ifft(along).real
    offset = amount / n  # of the central plane, which was kept
    expected = np.full(n, offset)
    expected[:: n // GHOSTS] -= amount / GHOSTS
    expected[0] += 1
    np.testing.assert_allclose(ghosts, expected, atol=0.005)


@pytest.mark.parametrize(("severity", "share"), list(zip(SEVERITIES, (0.1, 0.2, 0.4, 0.6, 0.8), strict=True)))
def test_motion_leaves_the_middle_of_k_space_alone(everywhere, severity, share):
    changed = corrupt(everywhere, (1, 1, 1), "motion", severity, seed=0)
    lowest = everywhere.min()
    difference = np.abs(np.fft.fftshift(np.fft.fftn(changed) - np.fft.fftn(everywhere), axes=2))
    moved = difference.max(axis=(0, 1)) > 1e-3 * np.abs(np.fft.fftn(everywhere - lowest)).max()
    n = len(moved)
    # Both ends have 40 to 60 % of the share. Of an image without imaginary part, each plane shows in its mirror too.
    assert not moved[round(n * 0.6 * share) + 1 : n - round(n * 0.6 * share) - 1].any()
    assert moved[: int(n * 0.4 * share)].all()
    assert moved[n - int(n * 0.4 * share) + 1 :].all()


def test_thick_slices_match_torch(everywhere):
    """Independent authority: SciPy's filter along one axis and torch's interpolation, where slices fit evenly."""
    from torch.nn import functional as F

    changed = corrupt(everywhere, (9, 9, 1), "anisotropy", 4, seed=0)  # the third axis has the smallest voxels
    slices = 4
    sigma = np.sqrt(slices**2 - 1) / 2.3548
    blurred = torch.from_numpy(gaussian_filter1d(everywhere, sigma, axis=2))
    thick = F.interpolate(blurred, scale_factor=1 / slices, mode="linear", align_corners=False)
    back = F.interpolate(thick, scale_factor=slices, mode="linear", align_corners=False)
    np.testing.assert_allclose(changed, back.numpy(), atol=0.01)


def test_thick_slices_reach_the_edge():
    """TorchIO's own counting of slices would leave zeros there."""
    volume = np.full((9, 9, 41), 5, np.float32)
    volume[0, 0, 0] = 4
    changed = corrupt(volume, (9, 9, 1), "anisotropy", 5, seed=0)
    assert np.abs(changed[4, 4] - 5).max() < 1e-3


def test_motion_turns_the_head_about_its_middle(scan):
    """A head that lies elsewhere in its field of view moves alike: nothing swings round a far origin."""
    here = corrupt(scan, SPACING, "motion", 3, seed=0)
    aside = corrupt(np.pad(scan, ((80, 0), (0, 0), (0, 0))), SPACING, "motion", 3, seed=0)
    np.testing.assert_allclose(aside[80:], here, atol=0.01 * scan.max())


def test_unknown_names():
    volume = np.zeros((2, 2, 2), np.float32)
    with pytest.raises(UnknownName, match="no artefact 'moton'. Did you mean 'motion'. Known: anisotropy, bias,"):
        corrupt(volume, SPACING, "moton", 1, 0)
    with pytest.raises(UnknownName, match="no severity '6'. Known: 1, 2, 3, 4, 5"):
        corrupt(volume, SPACING, "motion", 6, 0)


def test_the_page_has_every_amount():
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "robustness.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]+\|(.+)\|$", page, re.M))
    shown = {name: [float(cell) for cell in row.split("|")] for name, row in rows.items()}
    assert shown == {name: list(artefact.amounts) for name, artefact in ARTEFACTS.items()}
