"""The page of the viewer as text: whole, harmless, and with the numbers of the case."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from hatchling.builders.wheel import WheelBuilder

from cggm_med.data.splits import Splits
from cggm_med.errors import DataError, OutputError
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med.metrics.lesions import lesion_metrics
from cggm_med.runs.folder import RunFolder
from cggm_med.viewer import page as viewer
from cggm_med.viewer import run_pages
from cggm_med.viewer.errors import lesion_errors
from cggm_med.viewer.page import NIIVUE, ViewedCase, page_html
from cggm_med.viewer.volumes import Layer

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "</script><script>alert(1)</script><!-- {{niivue}} \"'&<img src=x onerror=alert(1)>\u2028"


class Scripts(HTMLParser):
    """What a browser would take for scripts, and the texts of all elements by id."""

    def __init__(self, text):
        super().__init__()
        self.kinds, self.texts, self.open, self.images = [], {}, "", 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.open = named.get("id", tag)
        self.images += tag == "img"
        if tag == "script":
            self.kinds.append(named.get("type", "text/javascript"))

    def handle_data(self, data):
        self.texts[self.open] = self.texts.get(self.open, "") + data


def a_case(name="case", truth=True, prediction=True, **changes):
    image = np.zeros((6, 5, 4), np.float32)
    image[1:5, 1:4, 1:3] = np.arange(24).reshape(4, 3, 2) + 100.5
    masks = np.zeros((2, 6, 5, 4), bool)
    masks[0, 1:4, 1:3, 1], masks[1, 1:3, 1, 1] = True, True  # 6 and 2 voxels
    predicted = masks.copy()
    predicted[0, 4, 1:3, 1] = True  # 8 voxels
    predicted[1] = False
    fields = {
        "name": name,
        "facts": {"task": "brats2021"},
        "images": {"flair": image, "t1": image * 2},
        "affine": np.diag([-5.0, 10.0, 20.0, 1.0]),  # a voxel is 1 ml
        "regions": {"outer": "all of it", "inner": ""},
        "colours": {"inner": "#F0E442", "outer": "#56B4E9"},
        "truth": Layer.of_masks(masks) if truth else None,
        "prediction": Layer.of_masks(predicted) if prediction else None,
    }
    return ViewedCase(**{**fields, **changes})


def content(text):
    return json.loads(Scripts(text).texts["content"])


def test_volumes_and_dice_counted_by_hand():
    outer, inner = content(page_html(a_case()))["regions"]
    assert (outer["truth"], outer["prediction"], outer["dice"]) == pytest.approx((6, 8, 12 / 14))
    assert (inner["truth"], inner["prediction"], inner["dice"]) == pytest.approx((2, 0, 0))
    assert (outer["colour"], inner["colour"]) == ("#56B4E9", "#F0E442")


def test_errors_of_each_region_and_the_lesions_to_jump_to():
    masks = np.zeros((2, 2, 6, 5, 4), bool)  # (truth or prediction, region, x, y, z)
    masks[:, 0, 0:2, 0, 0] = True  # found
    masks[0, 0, 3:6, 4, 3] = masks[0, 1, 3:5, 4, 3] = True  # missed: 3 ml of the outer region, 2 of the inner
    masks[1, 0, 0, 4, 0] = True  # false
    layers = {name: Layer.of_masks(mask) for name, mask in zip(("truth", "prediction"), masks, strict=True)}
    told = content(page_html(replace(a_case(), **layers)))
    outer, inner = (region["errors"] for region in told["regions"])
    assert outer == pytest.approx({"correct": 2, "missed": 3, "false": 1})
    assert inner == pytest.approx({"correct": 0, "missed": 2, "false": 0})
    found = [(lesion["kind"], lesion["region"], lesion["ml"]) for lesion in told["lesions"]]
    assert found == [("missed", 0, pytest.approx(3)), ("missed", 1, pytest.approx(2)), ("false", 0, pytest.approx(1))]
    # The voxel (4, 4, 3) is the middle of three; of two, the first.
    assert [lesion["mm"] for lesion in told["lesions"]] == [[-20, 40, 60], [-15, 40, 60], [0, 40, 0]]
    assert told["lesions_found"] == 3


def test_of_very_many_lesions_the_largest_are_listed(monkeypatch):
    monkeypatch.setattr(viewer, "MAX_LESIONS", 2)
    masks = np.zeros((1, 6, 5, 4), bool)
    masks[0, ::2, ::2, ::2] = True  # 3 * 3 * 2 voxels that do not touch
    masks[0, 5, 4, 2] = True  # touches one of them
    layers = {"truth": Layer.of_masks(masks), "prediction": Layer.of_masks(np.zeros_like(masks))}
    told = content(page_html(replace(a_case(regions={"outer": ""}), **layers)))
    assert told["lesions_found"] == 18
    assert [lesion["ml"] for lesion in told["lesions"]] == pytest.approx([2, 1])


@pytest.mark.parametrize("rules", [LesionRules(), LesionRules(1, 0.5), LesionRules(connectivity=6, min_overlap=0.5)])
def test_missed_and_false_lesions_are_those_that_are_scored(rules):
    predicted, true = np.random.default_rng(0).random((2, 30, 30, 30)) < 0.003
    errors, count = lesion_errors(predicted, true, 1.0, rules, 1000)
    scored = lesion_metrics(torch.from_numpy(predicted), torch.from_numpy(true), (1, 1, 1), rules)
    kinds = [error.kind for error in errors]
    assert (kinds.count("missed"), kinds.count("false"), count) == (scored.missed, scored.false, len(errors))
    assert scored.missed > 5
    assert scored.false > 5
    assert all((true if error.kind == "missed" else predicted)[error.voxel] for error in errors)


def test_a_case_without_truth_has_no_dice_and_one_layer():
    told = content(page_html(a_case(truth=False)))
    assert [layer["name"] for layer in told["layers"]] == ["prediction"]
    assert told["lesions"] == []
    assert all(region["truth"] is None and region["dice"] is None for region in told["regions"])


def test_it_starts_in_the_slices_with_the_most_truth():
    # Most voxels: x 1, y 1, z 1; in mm by the affine.
    assert content(page_html(a_case()))["start"] == [-5, 10, 20]
    # Else in the middle of 6 x 5 x 4 voxels.
    assert content(page_html(a_case(truth=False, prediction=False)))["start"] == [-12.5, 20, 30]


def test_the_box_of_what_is_not_background_is_turned_to_ras():
    # x from 1 to 5 of 6 voxels, stored right to left; y from 1 to 4 of 5; z from 1 to 3 of 4.
    low, high = content(page_html(a_case()))["box"]
    np.testing.assert_allclose(low, [1 / 6, 1 / 5, 1 / 4])
    np.testing.assert_allclose(high, [5 / 6, 4 / 5, 3 / 4])
    case = a_case(images={"flair": np.pad(np.ones((1, 5, 4), np.float32), ((1, 4), (0, 0), (0, 0)))})
    assert [ends[0] for ends in content(page_html(case))["box"]] == pytest.approx([4 / 6, 5 / 6])


@pytest.mark.parametrize("axes", ["LAS", "RAS", "SPL", "IRA"])
def test_slices_are_numbered_as_the_file_counts_them(axes):
    volume = np.zeros((6, 5, 4), np.float32)
    volume[1, 2, 3] = 1  # along right, anterior and superior
    turn = nib.orientations.axcodes2ornt(axes)
    image = nib.Nifti1Image(volume, np.eye(4)).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), turn)
    )
    as_stored = image.get_fdata(dtype=np.float32)
    case = a_case(images={"flair": as_stored}, affine=image.affine, truth=False, prediction=False)
    told = content(page_html(case))["axes"]
    assert [axis["size"] for axis in told] == [6, 5, 4]
    index = {
        axis["stored"]: k if axis["ascending"] else axis["size"] - 1 - k
        for axis, k in zip(told, (1, 2, 3), strict=True)
    }
    assert [index[axis] for axis in range(3)] == np.argwhere(as_stored)[0].tolist()


def test_sides_are_named_only_where_the_origin_lies_in_the_head():
    # The head is at voxels 1 to 4, 1 to 3 and 1 to 2.
    def sides(voxel, **changes):
        affine = np.diag([-5.0, 10.0, 20.0, 1.0])
        affine[:3, 3] = -affine[:3, :3] @ voxel
        return content(page_html(a_case(affine=affine, **changes)))["sides"]

    assert sides((2.5, 2, 1.5))
    assert sides((1, 1, 1))
    assert sides((4, 3, 2))
    # BraTS: a corner of the volume; then each axis by itself.
    assert [sides(voxel) for voxel in ((5, 4, 0), (0, 2, 1), (5, 2, 1), (2, 0, 1), (2, 2, 3))] == [False] * 5
    assert not sides((2.5, 2, 1.5), oriented=False)


def test_the_page_says_what_was_rounded_and_how_the_planes_lie():
    assert "flair to steps of" in content(page_html(a_case()))["rounded"]
    whole = {"flair": np.rint(a_case().images["flair"])}
    assert content(page_html(a_case(images=whole)))["rounded"] == ""
    assert content(page_html(a_case()))["grid"] == "6 × 5 × 4 voxels of 5 × 10 × 20 mm, stored as LAS."
    turned = nib.eulerangles.euler2mat(z=np.radians(20))
    oblique = np.block([[turned, np.zeros((3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])
    assert "turned by up to 20°, and so are the planes" in content(page_html(a_case(affine=oblique)))["grid"]


def test_a_page_that_would_be_large_is_rounded_more(monkeypatch):
    fine = page_html(a_case())
    monkeypatch.setattr(viewer, "LARGE_BYTES", 100)
    coarse = page_html(a_case())
    steps = [content(text)["images"][0]["step"] for text in (fine, coarse)]
    assert steps[1] == pytest.approx(steps[0] * 4096 / 255)


class Cases:
    """In place of the cases of a run: the second cannot be read."""

    ids = ("a", "b", "c d")

    def __init__(self, run, **options):
        self.run = SimpleNamespace(splits=Splits((), (), self.ids), folder=RunFolder(run))

    def view(self, id):
        if id == "b":
            raise DataError("b is damaged")
        return a_case(id)


def test_pages_of_a_run_lead_from_one_to_the_next_that_was_written(monkeypatch, tmp_path):
    monkeypatch.setattr(run_pages, "RunCases", Cases)
    told = []
    written = run_pages.write_run_pages(tmp_path, None, told.append)
    assert written == [tmp_path / "viewer" / "a.html", tmp_path / "viewer" / "c d.html"]
    assert told == ["left out b: b is damaged"]
    first, last = (content(page.read_text()) for page in written)
    assert (first["before"], first["following"]) == (None, {"name": "c d", "address": "c%20d.html"})
    assert (last["before"], last["following"]) == ({"name": "a", "address": "a.html"}, None)
    # Our own pages are replaced, no other file is.
    run_pages.write_run_pages(tmp_path, None, told.append)
    written[0].write_text("mine")
    with pytest.raises(OutputError, match=r"a.html is there"):
        run_pages.write_run_pages(tmp_path, None, told.append)
    assert written[0].read_text() == "mine"


def test_pages_that_are_stopped_lead_nowhere_that_does_not_exist(monkeypatch, tmp_path):
    def view(self, id):
        if id == "c d":
            raise KeyboardInterrupt
        return a_case(id)

    monkeypatch.setattr(Cases, "view", view)
    monkeypatch.setattr(run_pages, "RunCases", Cases)
    with pytest.raises(KeyboardInterrupt):
        run_pages.write_run_pages(tmp_path, None, print)
    assert [content((tmp_path / "viewer" / f"{id}.html").read_text())["following"] for id in "ab"] == [
        {"name": "b", "address": "b.html"},
        None,
    ]


def test_probabilities_are_whole_numbers_of_a_step():
    probability = np.linspace(0, 1, 120, dtype=np.float32).reshape(6, 5, 4)
    text = page_html(a_case(probabilities={"inner": probability}))
    told = content(text)
    assert told["probabilities"] == [1]
    volume = re.findall(r'class="volume">(.*?)</script>', text)[-1]
    codes = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(volume))).dataobj)
    assert codes.dtype == np.uint8
    np.testing.assert_allclose(codes / (len(told["probability_colours"]) - 1), probability, atol=0.0101)
    assert told["probability_colours"][0] is None


def test_hostile_names_stay_text():
    friendly = Scripts(page_html(a_case()))
    case = a_case(
        HOSTILE,
        facts={HOSTILE: HOSTILE},
        images={HOSTILE: a_case().images["flair"], "t1": a_case().images["t1"]},
        regions={HOSTILE: HOSTILE, "inner": HOSTILE},
        colours={HOSTILE: "#56B4E9", "inner": "#F0E442"},
        notes=(HOSTILE,),
    )
    text = page_html(case)
    hostile = Scripts(text)
    assert hostile.kinds == friendly.kinds
    assert hostile.images == 0
    told = content(text)
    assert told["name"] == told["images"][0]["name"] == told["regions"][0]["name"] == told["notes"][0] == HOSTILE
    assert hostile.texts["title"].strip() == HOSTILE.strip()


def test_the_page_loads_nothing_and_is_allowed_to_load_nothing():
    text = page_html(a_case())
    # What a page needs beside itself stands in these attributes.
    own = text.replace((NIIVUE / "niivue.umd.js").read_text(), "")
    assert re.findall(r"(?:src|href)\s*=\s*[\"']", own) == []
    assert "default-src 'none'" in own
    assert "Copyright (c) 2021, Niivue" in own


def test_niivue_is_the_file_that_its_readme_says():
    data, readme = (NIIVUE / "niivue.umd.js").read_bytes(), (NIIVUE / "README.md").read_text()
    assert f"`{hashlib.sha256(data).hexdigest()}`" in readme
    assert "| version | 0.69.0 |" in readme
    # Else it could not stand inside a script element.
    assert b"</script" not in data.lower()
    assert b"<!--" not in data


def test_the_wheel_holds_all_that_a_page_is_made_of():
    held = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    niivue = {f"cggm_med/vendored/niivue/{name}" for name in ("niivue.umd.js", "LICENSE", "THIRD_PARTY_NOTICES.md")}
    templates = {str(file.relative_to(ROOT)) for file in ROOT.glob("cggm_med/*/templates/**/*.*") if file.is_file()}
    assert {f"cggm_med/viewer/templates/page.{kind}" for kind in ("html", "css", "js")} <= templates
    assert niivue | templates <= held


def test_a_browser_is_only_opened_where_there_is_a_screen(monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(viewer.webbrowser, "open", lambda address: opened.append(address) or True)
    monkeypatch.setattr(viewer.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    assert not viewer.open_in_browser(tmp_path / "a.html")
    assert opened == []
    monkeypatch.setenv("DISPLAY", ":0")
    assert viewer.open_in_browser(tmp_path / "a b.html")
    assert opened == [(tmp_path / "a b.html").as_uri()]


def test_temporary_files_have_harmless_names_and_are_private():
    path = viewer.temporary_file("../a b/<c>\u2028")
    assert re.fullmatch(r"[\w.-]+\.html", path.name)
    assert path.parent.stat().st_mode & 0o077 == 0
    path.parent.rmdir()
