"""The viewer: a case of a run or any files as one page, whose canvas shows what it ought to."""

import base64
import gzip
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.chromium import elements, needs_chromium, screenshot
from helpers.command_line import command
from helpers.small_runs import trained_run

from cggm_med.metrics.overlap import dice
from cggm_med.viewer.case import RunCases, view_files
from cggm_med.viewer.page import ERRORS, page_html

SIZE = (1280, 800)
SIDEBAR, HEADER, FOOTER = 340, 90, 40  # pixels that are not canvas
LEFT_MM, RIGHT_MM = (-40, 30, 10), (40, -30, 10)  # of the patient, in RAS+
MISSED = tuple(int(ERRORS["missed"][at : at + 2], 16) for at in (1, 3, 5))
BLUE, YELLOW = (0x56, 0xB4, 0xE9), (0xF0, 0xE4, 0x42)


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, train__epochs="1")


def content(path):
    return json.loads(re.search(r'id="content">(.*?)</script>', path.read_text(), re.DOTALL)[1])


def case_in(run, split):
    return json.loads((run / "splits.json").read_text())[split][0]


# ---- what the page says ----------------------------------------------------------------------------------------------


def test_a_case_of_a_run_has_the_scores_of_its_evaluation(run, tmp_path, monkeypatch):
    case = case_in(run, "test")
    command(monkeypatch, "view", run, case, "-o", tmp_path / "page.html")
    told = content(tmp_path / "page.html")
    rows = [row for row in json.loads((run / "results.json").read_text())["cases"] if row["case"] == case]
    for region, row in zip(told["regions"], rows, strict=True):
        assert region["name"] == row["region"]
        found = (region["dice"], region["truth"], region["prediction"])
        assert found == pytest.approx((row["dice"], row["target_ml"], row["predicted_ml"]), rel=1e-4, abs=1e-9)
    assert [image["name"] for image in told["images"]] == ["flair", "t1", "t1ce", "t2"]
    assert (told["facts"]["split"], told["facts"]["task"]) == ("test", "brats2021")


def test_pages_of_all_held_out_cases_with_probabilities(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run")
    command(monkeypatch, "view", copy, "--all", "--probabilities")
    cases = json.loads((run / "splits.json").read_text())["test"]
    assert sorted(path.stem for path in (copy / "viewer").iterdir()) == sorted(cases)
    told = [content(copy / "viewer" / f"{case}.html") for case in cases]
    assert [page["following"] and page["following"]["name"] for page in told] == [*cases[1:], None]
    assert [page["before"] and page["before"]["name"] for page in told] == [None, *cases[:-1]]
    # The mask of the innermost region is where its probability is at least one half.
    for page, case in zip(told, cases, strict=True):
        text = (copy / "viewer" / f"{case}.html").read_text()
        stored = re.findall(r'class="volume">(.*?)</script>', text)[-3:][page["probabilities"].index(2)]
        volume = nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(stored)))
        ml = float(abs(np.linalg.det(volume.affine[:3, :3]))) / 1000
        above, below = ((np.asarray(volume.dataobj) > steps).sum() * ml for steps in (24, 25))
        assert page["regions"][2]["name"] == "ET"
        assert 0 < below <= page["regions"][2]["prediction"] <= above


def test_a_case_that_was_trained_on_says_so_under_any_name(run, phantom, tmp_path, monkeypatch):
    case = case_in(run, "train")
    command(monkeypatch, "view", run, case, "-o", tmp_path / "a.html")
    command(monkeypatch, "view", run, "renamed", "--data", renamed(phantom, case, tmp_path), "-o", tmp_path / "b.html")
    for name in ("a", "b"):
        told = content(tmp_path / f"{name}.html")
        assert told["facts"]["split"] == "train"
        assert "trained on this case" in told["notes"][0]


def renamed(phantom, case, folder, label=True):
    target = folder / "data" / "renamed"
    target.mkdir(parents=True)
    for file in (phantom / case).iterdir():
        if label or "_seg" not in file.name:
            (target / file.name.replace(case, "renamed")).write_bytes(file.read_bytes())
    return target.parent


def test_a_case_without_truth_shows_the_prediction_alone(run, phantom, tmp_path, monkeypatch):
    data = renamed(phantom, case_in(run, "test"), tmp_path, label=False)
    command(monkeypatch, "view", run, "renamed", "--data", data, "-o", tmp_path / "page.html")
    told = content(tmp_path / "page.html")
    assert [layer["name"] for layer in told["layers"]] == ["prediction"]
    assert "No truth is known" in told["notes"][0]


def test_files_are_segmented_by_a_run(run, phantom, tmp_path, monkeypatch):
    case = case_in(run, "test")
    files = [word for m in ("t1", "flair") for word in (f"--{m}", phantom / case / f"{case}_{m}.nii.gz")]
    truth = phantom / case / f"{case}_seg.nii.gz"
    words = ["view", run, *files, "--truth", truth, "--labels", "brats2021", "-o", tmp_path / "page.html"]
    command(monkeypatch, *words)
    told = content(tmp_path / "page.html")
    assert told["facts"]["absent"] == "t1ce, t2"
    assert [image["name"] for image in told["images"]] == ["flair", "t1"]
    assert all(region["dice"] is not None for region in told["regions"])


def test_files_with_two_masks(phantom, tmp_path, monkeypatch):
    case = phantom / "BraTS2021_00000" / "BraTS2021_00000"
    seg = nib.load(f"{case}_seg.nii.gz")
    labels = np.asarray(seg.dataobj)
    nib.save(nib.Nifti1Image(np.where(labels == 1, 0, labels).astype(np.uint8), seg.affine), tmp_path / "mine.nii.gz")
    words = [
        "--flair",
        f"{case}_flair.nii.gz",
        "--truth",
        f"{case}_seg.nii.gz",
        "--prediction",
        tmp_path / "mine.nii.gz",
    ]
    command(monkeypatch, "view", *words, "--labels", "brats2021", "-o", tmp_path / "named.html")
    command(monkeypatch, "view", *words, "-o", tmp_path / "plain.html")
    named, plain = (content(tmp_path / f"{name}.html")["regions"] for name in ("named", "plain"))
    assert [region["name"] for region in named] == ["WT", "TC", "ET"]
    assert [region["name"] for region in plain] == ["label 1", "label 2", "label 4"]
    expected = [
        dice(torch.from_numpy(np.isin(labels, b)), torch.from_numpy(np.isin(labels, a)))
        for a, b in (((1, 2, 4), (2, 4)), ((1, 4), (4,)), ((4,), (4,)))
    ]
    assert [region["dice"] for region in named] == pytest.approx(expected)
    assert [region["dice"] for region in plain] == [0, 1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("RUN", "BraTS2021_00009"),
            r"no case 'BraTS2021_00009' among these 6; the nearest names are BraTS2021_0000\d",
        ),
        (("RUN",), r"no case is named; there are 6, such as BraTS2021"),
        (("RUN", "BraTS2021_00000", "--split", "tset"), r"no split 'tset'. Did you mean 'test'"),
        (("RUN", "x", "--labels", "brats"), r"no case 'x'"),
        (("TASK", "x"), r"which does not segment"),
        (("--flair", "FLAIR", "--truth", "OTHER"), r"flair .*flair.nii.gz and label .*other.nii.gz differ in shape"),
        (("--flair", "FLAIR", "--prediction", "OTHER"), r"flair .* and label .*other.nii.gz differ in shape"),
        (("--flair", "FLAIR", "--truth", "HALF"), r"the truth holds 0.5; expected a mask of whole numbers"),
        (("--flair", "FLAIR", "--truth", "FLAIR"), r"masks hold \d+ labels .*at most 255"),
        (("--flair", "FLAIR", "--truth", "SEG", "--labels", "x"), r"no label convention 'x'"),
        (("--flair", "FLAIR", "--labels", "x", "--task", "mosi"), r"task 'mosi' does not segment"),
        (("RUN", "--flair", "FLAIR", "--truth", "SEG"), r"say it with --labels NAME"),
        (("RUN", "--flare", "FLAIR"), r"no modality in this run 'flare'. Did you mean 'flair'"),
        (("--flair", "missing.nii.gz"), r"missing.nii.gz does not exist"),
    ],
)
def test_bad_input_gets_one_clear_line(words, message, run, phantom, tmp_path, monkeypatch, capsys):
    case = phantom / "BraTS2021_00000" / "BraTS2021_00000"
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), tmp_path / "other.nii.gz")
    seg = nib.load(f"{case}_seg.nii.gz")
    nib.save(nib.Nifti1Image(np.full(seg.shape, 0.5, np.float32), seg.affine), tmp_path / "half.nii.gz")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("task:\n  name: mosi\n")
    known = {"RUN": run, "TASK": tmp_path / "run", "FLAIR": f"{case}_flair.nii.gz", "SEG": f"{case}_seg.nii.gz"}
    known |= {"OTHER": tmp_path / "other.nii.gz", "HALF": tmp_path / "half.nii.gz"}
    command(monkeypatch, "view", *(known.get(word, word) for word in words), "-o", tmp_path / "page.html", code=1)
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("a", "b", "c"),
        ("--flair", "a", "--data", "b"),
        ("a", "--flair", "b", "--prediction", "c"),
        ("a", "b", "--all"),
        ("--flair", "a", "--probabilities"),
    ],
)
def test_wrong_usage(words, monkeypatch, tmp_path):
    command(monkeypatch, "view", *words, "-o", tmp_path / "page.html", code=2)


@pytest.mark.parametrize("words", [("view", "a", "b"), ("report", "a")], ids=str)
def test_a_page_that_a_browser_would_not_show(words, monkeypatch, tmp_path, capsys):
    command(monkeypatch, *words, "-o", tmp_path / "page", code=2)
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "expected one that ends in .html, such as" in said


# ---- what the canvas shows -------------------------------------------------------------------------------------------


def a_head(folder, axes):
    """A head with a hole on the patient's left; masks: label 1 there, label 2 on the right; stored along ``axes``."""
    shape, mm = (60, 70, 50), 3.0
    affine = np.diag([mm, mm, mm, 1.0])
    affine[:3, 3] = -mm * (np.array(shape) - 1) / 2
    x, y, z = np.einsum("ij,j...->i...", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    distance = {
        side: np.sqrt(sum((a - b) ** 2 for a, b in zip((x, y, z), side, strict=True))) for side in (LEFT_MM, RIGHT_MM)
    }
    head = np.where((x / 75) ** 2 + (y / 90) ** 2 + (z / 65) ** 2 < 1, 500 + 3 * y, 0)
    volumes = {
        "scan": np.where(distance[LEFT_MM] < 6, 0, head).astype(np.float32),
        "other": np.where(head > 0, 1000 - head, 0).astype(np.float32),
        "left": (distance[LEFT_MM] < 18).astype(np.uint8),
        "right": (2 * (distance[RIGHT_MM] < 18)).astype(np.uint8),
    }
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    files = {}
    for name, volume in volumes.items():
        files[name] = folder / f"{axes}_{name}.nii.gz"
        image = nib.Nifti1Image(volume, affine).as_reoriented(turn)
        assert nib.aff2axcodes(image.affine) == tuple(axes)
        nib.save(image, files[name])
    return files


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Pages of the same head, stored in two ways."""
    folder, pages = tmp_path_factory.mktemp("heads"), {}
    for axes in ("RAS", "LAS"):
        files = a_head(folder, axes)
        case = view_files({"scan": files["scan"], "other": files["other"]}, files["left"], files["right"])
        pages[axes] = folder / f"{axes}.html"
        pages[axes].write_text(page_html(case))
    return pages


def canvas(page, settings):
    """The part of a screenshot that holds the scan, and what lies beside it cut off."""
    return screenshot(page, SIZE, settings)[HEADER : SIZE[1] - FOOTER, : SIZE[0] - SIDEBAR - 4]


def near(picture, colour, tolerance=24):
    return (np.abs(picture - colour) <= tolerance).all(-1)


def greys(picture):
    """Whether each pixel is grey and not black."""
    return (np.ptp(picture, axis=-1) <= 2) & (picture.max(-1) > 20)


AXIAL = "view=axial&mm=-40,30,10&opacity=100&crosshair=off"


@needs_chromium
@pytest.mark.slow
def test_the_canvas_shows_the_head_with_truth_in_lines_and_prediction_filled(heads):
    pictures = {axes: canvas(page, AXIAL) for axes, page in heads.items()}
    picture = pictures["RAS"]
    middle = picture.shape[1] / 2
    assert 0.2 < greys(picture).mean() < 0.8
    assert len(np.unique(picture[greys(picture)])) > 60
    # Radiological: the patient's right is on the left of the picture; anterior is above.
    truth, prediction = (np.argwhere(near(picture, colour)) for colour in (BLUE, YELLOW))
    assert len(truth) > 100
    assert len(prediction) > 3000
    assert truth[:, 1].min() > middle > prediction[:, 1].max()
    assert truth[:, 0].mean() < picture.shape[0] / 2 < prediction[:, 0].mean()
    # The truth is a ring around grey, the prediction a disc.
    (top, left), (bottom, right) = truth.min(0), truth.max(0)
    inside = picture[top + 12 : bottom - 12, left + 12 : right - 12]
    assert greys(inside).mean() > 0.4
    assert near(inside, BLUE).mean() < 0.01
    (top, left), (bottom, right) = prediction.min(0), prediction.max(0)
    assert near(picture[top : bottom + 1, left : right + 1], YELLOW).mean() > 0.7  # of a disc in its box: pi / 4
    # Ring and disc are 36 mm wide, as the ball that the mask was made of.
    assert truth[:, 1].max() - truth[:, 1].min() == pytest.approx(right - left, rel=0.1)
    # How the file is stored changes nothing.
    assert (np.abs(picture - pictures["LAS"]).max(-1) > 24).mean() < 0.002


@needs_chromium
@pytest.mark.slow
def test_layers_that_are_hidden_leave_no_colour(heads):
    hidden = canvas(heads["LAS"], f"{AXIAL}&truth=hidden&prediction=hidden")
    assert np.ptp(hidden, axis=-1).max() <= 6
    assert 0.2 < greys(hidden).mean() < 0.8
    turned = canvas(heads["LAS"], f"{AXIAL}&truth=filled&prediction=contour&convention=neurological")
    truth, prediction = (np.argwhere(near(turned, colour)) for colour in (BLUE, YELLOW))
    assert len(truth) > 3000 > len(prediction) > 50
    # Neurological: the patient's left is on the left.
    assert truth[:, 1].max() < turned.shape[1] / 2 < prediction[:, 1].min()


@needs_chromium
@pytest.mark.slow
def test_another_modality_and_three_dimensions(heads):
    scan, other = (canvas(heads["RAS"], f"{AXIAL}&prediction=hidden&modality={name}") for name in ("scan", "other"))
    centre = np.s_[300:340, 440:500]
    rows = [picture[100:560, 470].mean(-1) for picture in (scan, other)]
    # Brighter towards the front in one, towards the back in the other.
    assert rows[0][80] > rows[0][380] + 50
    assert rows[1][80] < rows[1][380] - 50
    assert not np.array_equal(scan[centre], other[centre])
    filled, hidden = (
        canvas(heads["RAS"], f"view=3-D&opacity=100&prediction={style}") for style in ("filled", "hidden")
    )
    for solid in (filled, hidden):
        assert greys(solid).mean() > 0.1
    # Seen through the head, the ball is darker than its colour.
    yellowish = [((x[..., 0] > x[..., 2] + 40) & (x[..., 1] > x[..., 2] + 40)).sum() for x in (filled, hidden)]
    assert yellowish[0] > yellowish[1] + 200


@needs_chromium
@pytest.mark.slow
def test_errors_on_all_modalities_side_by_side(heads):
    settings = f"{AXIAL.replace('axial', 'modalities')}&truth=hidden&prediction=hidden&map=errors of label 1"
    pictures = {axes: canvas(page, settings) for axes, page in heads.items()}
    left, right = np.array_split(pictures["RAS"], 2, axis=1)
    for cell in (left, right):
        # The ball of label 1 is on the patient's left, in front, and nobody predicted it.
        missed = np.argwhere(near(cell, MISSED))
        assert len(missed) > 500
        assert missed[:, 1].min() > cell.shape[1] / 2
        assert missed[:, 0].mean() < cell.shape[0] / 2
        assert 0.2 < greys(cell).mean() < 0.8
    assert (np.abs(left - right[:, : left.shape[1]]).max(-1) > 24).mean() > 0.2, "the other modality is another picture"
    assert (np.abs(pictures["RAS"] - pictures["LAS"]).max(-1) > 24).mean() < 0.002


KEYS = """
<script>
const told = [];
function press(key) {
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
}
function tell() {
  const chosen = [...document.querySelectorAll("[aria-checked=true]")].map((button) => button.firstChild.data);
  const styles = [...document.querySelectorAll("fieldset input:checked")].map((input) => input.id);
  told.push([...chosen, document.getElementById("position").textContent, styles].join("|"));
}
const pause = () => new Promise((resolve) => setTimeout(resolve, 200));  // another modality is unpacked first
async function drive() {
  while (document.getElementById("message").textContent) await pause();
  for (const keys of ["", "2", "A", "ArrowLeft", "ArrowUp", "PageUp", "t P", "n", "n"]) {
    keys.split(" ").forEach(press);
    await pause();
    tell();
  }
  document.body.append(Object.assign(document.createElement("pre"), { id: "told", textContent: told.join("\\n") }));
}
drive();
</script>
"""


@needs_chromium
@pytest.mark.slow
def test_keys_and_a_hostile_name(heads, tmp_path):
    name = "</script><img src=x onerror=\"document.title='broken'\">"
    files = a_head(tmp_path, "LAS")
    hostile = tmp_path / "hostile.html"
    case = view_files({name: files["scan"], "other": files["other"]}, files["left"], files["right"])
    hostile.write_text(page_html(case) + KEYS)
    text = elements(hostile)
    assert "<img" not in text
    assert "<title>LAS_scan</title>" in text
    told = (
        re.search(r'<pre id="told">(.*?)</pre>', text, re.DOTALL)[1]
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .split("\n")
    )
    start, modality, view, left, up, through, layers, *lesions = told
    assert start.startswith(f"{name}|three planes|L ")
    assert start.endswith("|truth-contour,prediction-filled")
    assert modality.startswith("other|three planes|")
    assert view.startswith("other|axial|")
    # To the left of the picture is to the patient's right.
    moved = [
        np.subtract(place(after), place(before)).tolist() for before, after in ((view, left), (left, up), (up, through))
    ]
    assert moved == [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    assert layers.endswith("|truth-filled,prediction-hidden")
    # One ball was missed and the other one is false; both are of one size, and in the middle of voxels of 3 mm.
    found = [place(lesion) for lesion in lesions]
    assert found == [pytest.approx(mm, abs=1.6) for mm in (LEFT_MM, RIGHT_MM)]


def place(told):
    """Millimetres in RAS+ of what the page says, such as ``L 40.5 A 30.0 S 10.5 mm``."""
    numbers = re.search(r"([LR]) ([\d.]+)\s+([AP]) ([\d.]+)\s+([SI]) ([\d.]+) mm", told).groups()
    return [float(n) * (1 if side in "RAS" else -1) for side, n in zip(numbers[::2], numbers[1::2], strict=True)]


@needs_chromium
@pytest.mark.slow
def test_the_page_of_a_run_is_drawn(run, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page_html(RunCases(run, say=lambda text: None).view(case_in(run, "test"))))
    # After one epoch the prediction may be anywhere.
    for size, width in ((SIZE, SIZE[0] - SIDEBAR - 4), ((800, 1400), 800)):
        scan = screenshot(path, size, "prediction=hidden")[HEADER + 40 : HEADER + 500, :width]
        assert greys(scan).mean() > 0.1
        assert (np.ptp(scan, axis=-1) > 60).sum() > 300  # of the contours
