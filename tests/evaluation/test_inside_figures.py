"""Pictures of calibration and probes show the numbers, and do not break on what is rare."""

import numpy as np
import pytest

from cggm_med.evaluation.calibration import figure as reliabilities
from cggm_med.evaluation.calibration.scores import RegionPredictions
from cggm_med.evaluation.probe import figure as probes

LABELS = {"x_label": "probability of the region", "unit": "voxels"}


@pytest.fixture
def shown(monkeypatch):
    """The figures instead of their files."""
    figures = []
    for module in (probes, reliabilities):
        monkeypatch.setattr(module, "write_figure", lambda path, figure: figures.append(figure))
    return figures


def counted(probability, inside):
    return RegionPredictions.count(np.array(probability), np.array(inside))


def test_the_diagram_shows_each_bin(shown, tmp_path):
    found = counted([0.1, 0.1, 0.1, 0.9], [False, False, True, True])
    reliabilities.reliability_figure(tmp_path / "x.png", "t", {"WT": (found.scores(), found.scores(2.0))}, **LABELS)
    above, below = shown[0].axes
    before, after = above.collections
    # A third of three voxels of probability 0.1 are inside, and the one of 0.9 is.
    np.testing.assert_allclose(before.get_offsets(), [[0.1, 1 / 3], [0.9, 1]], atol=1e-3)
    # Log-odds -ln 9 and ln 9 halved are odds of 1 to 3 and 3 to 1.
    np.testing.assert_allclose(after.get_offsets(), [[0.25, 1 / 3], [0.75, 1]], atol=1e-3)
    shares = below.patches[0].get_data().values
    assert (shares[1], shares[13], sum(shares)) == (0.75, 0.25, 1)
    assert above.get_title() == f"WT\nECE before {0.75 * (1 / 3 - 0.1) + 0.25 * 0.1:.3f}\nECE after 0.125"


def test_one_bin_many_regions_and_no_temperature(pictures, tmp_path):
    one = counted([0.0], [False]).scores()
    for regions in (1, 6):
        path = tmp_path / f"{regions}.png"
        reliabilities.reliability_figure(path, "t", {f"region {i}": (one, None) for i in range(regions)}, **LABELS)
        assert path.read_bytes().startswith(b"\x89PNG")


def test_bars_stand_by_modality_in_the_order_of_read_outs(shown, tmp_path):
    panel = {("a", "x"): 0.25, ("a", "y"): 0.5, ("b", "y"): 0.75, ("fused", "fused"): 0.9, ("b", "x"): None}
    probes.probe_figure(tmp_path / "x.png", "t", {"Dice": panel}, ["a", "b"], {"x": "X", "z": "Z", "y": "Y"}, "fused")
    (ax,) = shown[0].axes
    bars = sorted((bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in ax.patches)
    assert [height for _, height in bars] == [0.25, 0.5, 0.75]
    assert [round(x) for x, _ in bars] == [0, 0, 1]
    assert ax.lines[0].get_ydata()[0] == 0.9
    assert [t.get_text() for t in shown[0].legends[0].get_texts()] == ["X", "Y", "fused prediction"]


def test_errors_above_1_and_no_fusion(pictures, tmp_path):
    panels = {"MAE": {("a", "x"): 3.5}, "Corr": {("a", "x"): -0.1}, "third": {("a", "x"): 0.1}}
    probes.probe_figure(tmp_path / "x.png", "t", panels, ["a"], {"x": "X"}, "fused")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
