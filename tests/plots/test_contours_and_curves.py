"""Figures: what is where on the picture, which numbers the curves have, and sizes that a report can hold."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from cggm_med.plots.contours import Column, contour_figure
from cggm_med.plots.curves import learning_figure, modality_figure
from cggm_med.plots.style import REGION_COLOURS, region_colours

pytestmark = pytest.mark.usefixtures("pictures")
SHAPE = (32, 32, 32)


def box(low=6, high=26, shape=SHAPE):
    mask = np.zeros(shape, dtype=bool)
    mask[low:high, low:high, low:high] = True
    return mask


def brain(shape=SHAPE, low=4, high=28):
    noise = 50 + np.random.default_rng(0).random((high - low,) * 3)
    image = np.zeros(shape)
    image[low:high, low:high, low:high] = noise
    return image


def contours(path, target, prediction=None, image=None, spacing=(1, 1, 1), modalities=("t1",), name="R{}"):
    """Draw and read back as ``(row, column, red-green-blue)`` in [0, 1]."""
    target = np.stack(target)
    prediction = np.zeros_like(target) if prediction is None else np.stack(prediction)
    regions = [name.format(i) for i in range(len(target))]
    columns = [Column(modality, brain() if image is None else image, prediction) for modality in modalities]
    colours = region_colours(regions, {})
    contour_figure(path, "case-1", columns, target, colours, spacing, dict.fromkeys(regions, 0.5))
    return imread(path)[..., :3]


def places(pixels, colour):
    """Row and column of the pixels of a colour, split where rows are empty: axial, coronal, legend."""
    rows, columns = np.nonzero((np.abs(pixels - to_rgb(colour)) < 0.1).all(-1))
    bands = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > 5) + 1)
    return [(rows[band], columns[band]) for band in bands]


def coloured(pixels):
    """How many pixels have the first region's colour."""
    return sum(len(rows) for rows, _ in places(pixels, REGION_COLOURS[0]))


def train_records(number, loss=lambda i: 1.0, **extra):
    return [{"kind": "train", "step": 10 * i, "loss": 9.0, "losses": {"task": loss(i)}, **extra} for i in range(number)]


def validation_records():
    return [
        {"kind": "validation", "step": step, "scores": {"Dice WT": dice, "Dice TC": dice / 2}}
        for step, dice in ((10, 0.4), (20, 0.8))
    ]


@pytest.mark.parametrize(("band", "up"), [(0, 1), (1, 2)], ids=["axial", "coronal"])
def test_right_is_left_and_the_front_and_the_head_are_up(tmp_path, band, up):
    """In RAS+ the patient's right, front and head are where the indices are high."""
    indices = np.indices(SHAPE)
    part = box() & (indices[0] >= 18) & (indices[up] >= 18)
    pixels = contours(tmp_path / "a.png", [box(), part])
    whole_rows, whole_columns = places(pixels, REGION_COLOURS[0])[band]
    rows, columns = places(pixels, REGION_COLOURS[1])[0]
    # The part's lines cover those of the whole, hence the middle of the picture for left and right.
    assert columns.max() < pixels.shape[1] / 2
    assert rows.max() < (whole_rows.min() + whole_rows.max()) / 2
    assert whole_columns.max() > pixels.shape[1] / 2


def test_each_column_has_its_own_prediction(tmp_path, figure):
    columns = [Column("all", brain(), np.stack([box()])), Column("without t1", brain(), np.zeros((1, *SHAPE), bool))]
    colours = region_colours(["R"], {})
    contour_figure(tmp_path / "a.png", "case-1", columns, np.stack([box()]), colours, (1, 1, 1))
    drawn = [[len(ax.collections) for ax in row] for row in (figure[-1].axes[:2], figure[-1].axes[2:])]
    assert drawn == [[2, 1], [2, 1]]  # true and predicted, and of what is not predicted the true one alone
    assert [ax.get_title() for ax in figure[-1].axes[:2]] == ["all", "without t1"]


def test_the_letters_stand_on_the_right_side(tmp_path, figure):
    contours(tmp_path / "a.png", [box()], modalities=("t1", "t2"))
    for row in (figure[0].axes[:2], figure[0].axes[2:]):
        spots = {t.get_text(): t.get_window_extent().x0 for ax in row for t in ax.texts}
        middle = figure[0].bbox.width / 2
        assert spots["R"] < middle < spots["L"]


def test_title_and_legend_say_what_is_drawn(tmp_path, figure):
    contours(tmp_path / "a.png", [box(), box(10, 20)], modalities=("t1", "t2"))
    assert figure[0].get_suptitle() == "case-1\nDice:  R0 0.50   R1 0.50"
    assert [ax.get_title() for ax in figure[0].axes[:2]] == ["t1", "t2"]
    assert [t.get_text() for t in figure[0].legends[0].get_texts()] == ["R0", "R1", "true", "predicted"]


@pytest.mark.parametrize("modalities", [("a",), ("a", "b"), ("a", "b", "c", "d")], ids=len)
def test_nothing_is_cut_off(tmp_path, figure, modalities):
    contours(tmp_path / "a.png", [box()] * 3, modalities=modalities)
    picture = figure[0].bbox
    for part in (figure[0].legends[0], *figure[0].texts, *(t for ax in figure[0].axes for t in ax.texts)):
        extent = part.get_window_extent()
        assert picture.x0 <= extent.x0 <= extent.x1 <= picture.x1
        assert picture.y0 <= extent.y0 <= extent.y1 <= picture.y1


def test_millimetres_are_square(tmp_path):
    """20 x 20 x 5 voxels of 1 x 1 x 4 mm are a cube."""
    mask = np.zeros((32, 32, 8), dtype=bool)
    mask[6:26, 6:26, 1:6] = True
    image = np.where(mask, np.arange(8.0) + 1, 0)
    for rows, columns in places(
        contours(tmp_path / "a.png", [mask], image=image, spacing=(1, 1, 4)), REGION_COLOURS[0]
    )[:2]:
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), abs=4)


def test_the_brain_fills_the_panel_whatever_surrounds_it(tmp_path):
    wide = contours(tmp_path / "wide.png", [np.pad(box(), 20)], image=np.pad(brain(), 20))
    assert np.array_equal(wide, contours(tmp_path / "tight.png", [box()]))
    lit = np.flatnonzero((wide > 0.2).any(-1).any(0))
    assert np.ptp(lit) > 0.45 * wide.shape[1], "a single modality takes one of two panels' width"


def test_a_few_bright_voxels_do_not_darken_the_rest(tmp_path, figure):
    """The tissue is uniform from 50 to 51, hence black at 50.01 and white at 50.995, its percentiles 1 and 99.5."""
    image = brain()
    image[10, 10, 10:20] = 1e4
    contours(tmp_path / "a.png", [box()], image=image)
    assert figure[0].axes[0].images[0].get_clim() == pytest.approx((50.01, 50.995), abs=0.002)


def test_slices_go_through_a_false_region_where_nothing_is_true(tmp_path):
    """A prediction in a corner, which slices through the middle would not meet."""
    pixels = contours(tmp_path / "a.png", [np.zeros_like(box())], [box(6, 12)])
    assert len(places(pixels, REGION_COLOURS[0])) == 3, "axial, coronal and legend"


def test_a_prediction_shows_on_the_very_same_contour(tmp_path):
    """Dashes: lines of the region's colour that dark rims interrupt."""
    missed = contours(tmp_path / "a.png", [box()])
    perfect = contours(tmp_path / "b.png", [box()], [box()])
    assert 0.3 * coloured(missed) < coloured(perfect) < 0.95 * coloured(missed)


def test_solid_and_dashed_belong_to_target_and_prediction(tmp_path):
    """The contour of a false region is interrupted, that of a missed one is not."""
    nothing = np.zeros_like(box())
    missed = contours(tmp_path / "a.png", [box()])
    false = contours(tmp_path / "b.png", [nothing], [box()])
    assert 0.3 * coloured(missed) < coloured(false) < 0.8 * coloured(missed)


def test_more_regions_than_colours_are_all_drawn(tmp_path, figure):
    contours(tmp_path / "a.png", [box() & (np.indices(SHAPE)[0] > 6 + i) for i in range(7)])
    assert len(figure[0].axes[0].collections) == 7


@pytest.mark.parametrize("fill", [False, True], ids=["nothing", "everything"])
def test_masks_without_an_inside_or_an_outside(tmp_path, fill):
    pixels = contours(tmp_path / "a.png", [np.full(SHAPE, fill)], image=np.ones(SHAPE))
    bands = places(pixels, REGION_COLOURS[0])
    assert len(bands) == (3 if fill else 1), "axial, coronal and legend; or the legend alone"


def test_sizes_are_sane(tmp_path):
    contours(tmp_path / "contours.png", [box()], modalities=("a", "b", "c", "d"))
    learning_figure(tmp_path / "learning.png", train_records(24) + validation_records())
    score = {"score": {"t1": 0.5}, "factor": {"t1": 1.0}}
    assert modality_figure(tmp_path / "modalities.png", train_records(24, **score), ("t1",))
    for name in ("contours", "learning", "modalities"):
        path = tmp_path / f"{name}.png"
        height, width = imread(path).shape[:2]
        assert 500 < height < 2500
        assert 1000 < width < 3000
        assert 10_000 < path.stat().st_size < 2_000_000


def test_curves_hold_the_records(tmp_path, figure):
    learning_figure(tmp_path / "a.png", train_records(4, loss=lambda i: 4 - i) + validation_records())
    left, right = figure[0].axes
    assert left.lines[0].get_xydata().tolist() == [[0, 4], [10, 3], [20, 2], [30, 1]]
    curves = {line.get_label(): line.get_ydata().tolist() for line in right.lines}
    assert curves == {"Dice WT": [0.4, 0.8], "Dice TC": [0.2, 0.4]}


@pytest.mark.parametrize("number", [1, 2, 24, 1000])
def test_smoothing_keeps_a_constant_at_every_length(tmp_path, figure, number):
    learning_figure(tmp_path / "a.png", train_records(number, loss=lambda i: 0.7))
    np.testing.assert_allclose(figure[0].axes[0].lines[1].get_ydata(), [0.7] * number)


@pytest.mark.parametrize("number", [24, 1000])
def test_smoothing_does_not_lag_and_does_smooth(tmp_path, figure, number):
    learning_figure(tmp_path / "a.png", train_records(number, loss=lambda i: -0.01 * i))
    inside = slice(number // 5, -number // 5)
    raw, smooth = (line.get_ydata()[inside] for line in figure[-1].axes[0].lines)
    np.testing.assert_allclose(smooth, raw)
    learning_figure(tmp_path / "a.png", train_records(number, loss=lambda i: (-1) ** i))
    assert np.abs(figure[-1].axes[0].lines[1].get_ydata()[inside]).max() < 0.1


def test_learning_without_validation_or_without_training_records(tmp_path, figure):
    learning_figure(tmp_path / "a.png", train_records(3))
    learning_figure(tmp_path / "b.png", validation_records())
    assert [len(f.axes) for f in figure] == [1, 2]


def test_nothing_logged_about_the_modalities_is_no_figure(tmp_path):
    assert modality_figure(tmp_path / "a.png", train_records(3), ("t1",)) is False
    assert not (tmp_path / "a.png").exists()


def test_scores_without_factors_get_one_panel(tmp_path, figure):
    records = train_records(3, score={"t1": 0.5, "t2": 0.25})
    assert modality_figure(tmp_path / "a.png", records, ("t1", "t2"))
    assert len(figure[0].axes) == 1


def test_the_fusion_is_drawn_beside_the_modalities(tmp_path, figure):
    records = train_records(3, score={"t1": 0.5, "t2": 0.25}, fused_score=0.75)
    assert modality_figure(tmp_path / "a.png", records, ("t1", "t2"))
    drawn = [line.get_ydata()[0] for line in figure[0].axes[0].lines[::2]]
    assert drawn == [0.5, 0.25, 0.75]
    assert [text.get_text() for text in figure[0].legends[0].get_texts()] == ["t1", "t2", "fused"]


def test_a_panel_each_for_what_was_logged_and_gaps_for_missing_modalities(tmp_path, figure):
    both = {"t1": 0.5, "t2": 0.25}
    records = train_records(4, score=both, cosine=both, gradient_norm=both, factor=both)
    records[1]["cosine"] = {"t1": 0.5, "t2": None}
    assert modality_figure(tmp_path / "a.png", records, ("t1", "t2"))
    titles = [ax.get_title() for ax in figure[0].axes if ax.get_title()]
    assert [title.split()[0] for title in titles] == ["score", "gradient", "cosine", "factor"]
    cosine = figure[0].axes[2].lines
    assert [len(line.get_xdata()) for line in cosine[:4:2]] == [4, 3]


def test_factors_are_drawn_as_applied(tmp_path, figure):
    records = [r | {"factor": {"t1": f}} for r, f in zip(train_records(3), (1.0, 1.0, 2.0), strict=True)]
    assert modality_figure(tmp_path / "a.png", records, ("t1",))
    curve, unchanged = figure[0].axes[0].lines
    assert curve.get_ydata().tolist() == [1, 1, 2]
    assert list(unchanged.get_ydata()) == [1, 1]


# Linear RGB as dichromats of two kinds see it: Machado, Oliveira and Fernandes, IEEE TVCG 15(6), 2009, table 1.
EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def lab(linear):
    """CIELAB of linear sRGB under D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(linear, 0, 1) / (0.9505, 1, 1.0888))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eyes", EYES)
def test_the_palette_is_told_apart_by_colour_blind_readers(eyes):
    """A difference of 2.3 is just noticeable (Mahy et al., 1994)."""
    srgb = [np.array(to_rgb(colour)) for colour in REGION_COLOURS]
    seen = [lab(EYES[eyes] @ np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)) for c in srgb]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 6 * 2.3


def test_every_region_has_a_colour_of_its_own():
    regions = [f"R{k}" for k in range(300)]
    declared = {"R7": "#56b4e9", "R200": "#123456"}
    colours = region_colours(regions, declared)
    assert list(colours) == regions
    assert len({colour.upper() for colour in colours.values()}) == 300
    assert {region: colours[region] for region in declared} == declared
    assert list(region_colours(regions, {}).values())[: len(REGION_COLOURS)] == list(REGION_COLOURS)


def test_many_regions_fit_into_the_picture(tmp_path, figure):
    contours(tmp_path / "a.png", [box()] * 20, modalities=("t1",), name="left anterior descending {}")
    figure[0].draw_without_rendering()  # at its own resolution, not the file's
    picture = figure[0].bbox
    for part in (figure[0].legends[0], *figure[0].texts):
        extent = part.get_window_extent()
        assert picture.x0 <= extent.x0 <= extent.x1 <= picture.x1
        assert picture.y0 <= extent.y0 <= extent.y1 <= picture.y1
    tops = [ax.get_window_extent().y0 for ax in figure[0].axes]
    assert figure[0].legends[0].get_window_extent().y1 <= min(tops)
