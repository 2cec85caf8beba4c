"""The HTML report: one sound file that needs nothing else, whose numbers are those of the runs, and who is left out."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
import yaml
from helpers.command_line import command, set_options
from helpers.small_runs import quiet, small_config, trained_run
from PIL import Image

from cggm_med.errors import OutputError
from cggm_med.report import page as report_page
from cggm_med.report import write_report
from cggm_med.report.cases import MAX_PICTURES, MAX_ROWS
from cggm_med.runs import scoring
from cggm_med.runs import train as runs
from cggm_med.runs.folder import RunFolder

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = """<script>alert('1')</script>&amp;"><img src=x onerror=alert(2)>"""
VOID = {"meta", "img", "br"}
LIMIT = 10_000_000


class Page(HTMLParser):
    """What a test asks of a page; fails where elements are not nested as they should be."""

    def __init__(self, path):
        super().__init__()
        self.open, self.found, self.words = [], [], []
        self.text = path.read_text()
        self.feed(self.text)
        self.close()
        assert self.open == [], "elements are never closed"

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]

    @property
    def visible(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory, phantom, cache):
    """Two segmentation runs that differ in their strategy."""
    folder = tmp_path_factory.mktemp("runs")
    for strategy in ("joint", "cggm"):
        trained_run(folder / strategy, phantom, cache, pictures=True, strategy__name=strategy, train__log_every="1")
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    settings = ["train.epochs=3", "train.steps_per_epoch=3", "train.log_every=1", "data.workers=0"]
    settings.append(f"data.cache={folder / 'cache'}")
    flags = set_options(settings)
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "train", "--task", "avdigits", "--strategy", "cggm", "--out", folder / "run", *flags)
    return folder / "run"


@pytest.fixture
def pair(trained, tmp_path):
    """Copies of both runs, to be changed; without curves, which take the longest to draw."""
    copies = [shutil.copytree(trained / name, tmp_path / name) for name in ("joint", "cggm")]
    for copy in copies:
        (copy / "metrics.jsonl").write_text("")
    return copies


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory):
    """The report of both runs."""
    out = tmp_path_factory.mktemp("report") / "r.html"
    return write_report([trained / "joint", trained / "cggm"], out)


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def edit(run, **changes):
    """Change fields of ``results.json``."""
    path = run / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def results(run):
    return json.loads((run / "results.json").read_text())


def assert_sound(path):
    page = Page(path)
    assert len(page.text.encode()) < LIMIT
    for attributes in page.all("img", "script", "link", "a", "iframe", "source"):
        assert attributes.get("src", "data:").startswith("data:")
        link = attributes.get("href", "#")
        assert link.startswith("#") or (path.parent / link).is_file(), link
        assert not link.startswith("#") or link == "#" or link[1:] in [a.get("id") for _, a in page.found]
    assert "http:" not in page.text
    assert "https:" not in page.text
    assert "url(" not in page.text
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels)), "a level of headings is skipped"
    assert all(image["alt"] for image in page.all("img"))
    assert all(cell["scope"] in ("row", "col") for cell in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert all(region["aria-label"] for region in page.all("div") if region.get("role") == "region")
    return page


def test_two_runs_make_one_sound_page(written):
    page = assert_sound(written)
    headings = re.findall("<h2>(.*?)</h2>", page.text)
    assert headings == [
        "Summary",
        "Configuration",
        "Over training",
        "Gradients in the plane",
        "Cases",
        "Pictures of predictions",
        "Modality subsets",
        "Calibration",
        "Linear probes",
        "External validation",
        "Robustness",
        "Cost",
        "For a paper",
        "Provenance",
    ]
    for key in ("score", "gradient_norm", "cosine"):
        for name in ("joint", "cggm"):
            assert (written.parent / "r_files" / f"curves-{key}-{name}.png").is_file()
    assert "joint: nothing logged, strategy joint has no such quantity." in page.visible
    assert "2 |P and T| / (|P| + |T|)" in page.visible
    assert "cggm-med train --preset tiny" in page.visible


def test_every_number_of_a_curve_is_that_of_the_run(written, trained):
    found = rows(written.parent / "r_files" / "curves-cosine.csv")
    for name in ("joint", "cggm"):
        logged = {
            (str(r["step"]), m): str(x)
            for r in RunFolder(trained / name).read_metrics()
            if "cosine" in r
            for m, x in r["cosine"].items()
        }
        assert {(r["step"], r["modality"]): r["value"] for r in found if r["run"] == name} == logged
    scores = rows(written.parent / "r_files" / "curves-score.csv")
    assert {r["modality"] for r in scores} == {"flair", "t1", "t1ce", "t2", "fused"}


def test_settings_that_differ_come_first_and_are_marked(written, trained):
    stored = [yaml.safe_load((trained / name / "config.yaml").read_text()) for name in ("joint", "cggm")]
    table = written.read_text().split("Settings in which the runs differ", 1)[1].split("</table>", 1)[0]
    named = set(re.findall(r'<th scope="row"[^>]*>(.*?)</th>', table))
    expected = {f"strategy.{key}" for key in {**stored[0]["strategy"], **stored[1]["strategy"]}}
    assert named == expected
    assert table.count('class="marked"') == 2 * len(expected)


def test_the_worst_case_comes_first_and_the_csv_has_every_score(written, trained):
    found = {}
    for name in ("joint", "cggm"):
        for row in results(trained / name)["cases"]:
            found.setdefault(row["case"], []).append(row["dice"])
    worst = min(found, key=lambda case: sum(found[case]))
    listed = rows(written.parent / "r_files" / "cases.csv")
    assert listed[0]["case"] == worst
    assert len(listed) == sum(map(len, found.values()))
    table = written.read_text().split("Dice of each case", 1)[1]
    assert re.search(r'<th scope="row"[^>]*>(.*?)</th>', table.split("<tbody>", 1)[1])[1] == worst


def test_gradients_have_a_place_for_each_kept_one(written, trained):
    kept = RunFolder(trained / "cggm").read_gradients()
    placed = rows(written.parent / "r_files" / "gradients-cggm.csv")
    assert len(kept) == 12
    assert len(placed) == sum(len(r["own"]) + len(r["fused"]) for r in kept)
    assert {row["of"] for row in placed} == {"flair", "t1", "t1ce", "t2", "fused"}


def test_a_report_of_one_label_run(digits, tmp_path):
    page = assert_sound(write_report([digits], tmp_path / "r.html"))
    assert "Worst cases first: wrong ones" in page.visible
    assert "Robustness" not in page.visible, "artefacts of MRI are for scans"
    assert (tmp_path / "r_files" / "confusion-run.png").read_bytes() == (digits / "figures/confusion.png").read_bytes()
    listed = rows(tmp_path / "r_files" / "cases.csv")
    right = [row["right"] == "True" for row in listed]
    assert right == sorted(right)
    wrong = [float(row["probability"]) for row in listed if row["right"] == "False"]
    assert wrong == sorted(wrong, reverse=True)


def test_the_same_runs_give_the_same_gradient_places(written, trained, tmp_path):
    write_report([trained / "joint", trained / "cggm"], tmp_path / "again.html")
    name = "gradients-cggm.csv"
    assert (tmp_path / "again_files" / name).read_text() == (written.parent / "r_files" / name).read_text()


def test_what_comes_from_files_is_escaped(pair, tmp_path):
    """A case, a setting, a command and a folder that would run as a script."""
    old = results(pair[0])["cases"][0]["case"]
    for run in pair:
        for name in ("results.json", "splits.json", "data.json"):
            (run / name).write_text((run / name).read_text().replace(json.dumps(old), json.dumps(HOSTILE)))
        edit(run, provenance={"command": HOSTILE}, rules={HOSTILE: HOSTILE})
        settings = yaml.safe_load((run / "config.yaml").read_text())
        settings["strategy"][HOSTILE] = HOSTILE
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
    hostile = pair[0].rename(tmp_path / "<b>&'$x$'")
    page = assert_sound(write_report([hostile, pair[1], tmp_path / "<i>no"], tmp_path / "r.html"))
    assert len(page.all("script")) == 1
    assert not page.all("b", "i")
    assert not any("onerror" in attributes for _, attributes in page.found)
    assert page.visible.count(HOSTILE) > 5
    assert (tmp_path / "r_files" / "cases.csv").read_text().count("alert('1')") == 6


def test_runs_that_cannot_stand_beside_the_first_are_named_with_the_reason(pair, digits, tmp_path, capsys):
    first, _ = pair
    other_splits, other_data, incomplete, damaged, no_run = (tmp_path / n for n in ("sp", "da", "inc", "dam", "no"))
    for path in (other_splits, other_data, incomplete, damaged):
        shutil.copytree(first, path)
    splits = json.loads((first / "splits.json").read_text())
    splits["train"], splits["validation"] = splits["validation"], splits["train"]
    (other_splits / "splits.json").write_text(json.dumps(splits))
    contents = json.loads((first / "data.json").read_text())
    changed = next(iter(contents))
    contents[changed]["flair"] = "0" * 24
    (other_data / "data.json").write_text(json.dumps(contents))
    (incomplete / "results.json").unlink()
    (damaged / "metrics.jsonl").write_text("{\n")
    no_run.mkdir()
    reasons = {
        digits: "its task is avdigits, not brats2021",
        other_splits: "its train split has other cases",
        other_data: f"its data differ from those of {first} in 1 cases of the same name ({changed})",
        incomplete: "it has no results.json; finish it with 'cggm-med train --resume",
        damaged: "is damaged or incomplete",
        no_run: "is not a run folder",
        first: "it was named twice",
    }
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "report", first, *pair[1:], *reasons, "-o", tmp_path / "r.html")
    told = capsys.readouterr().err
    page = assert_sound(tmp_path / "r.html")
    for folder, reason in reasons.items():
        assert reason in page.visible
        assert any(line.startswith(f"left out {folder}:") and reason in line for line in told.splitlines())
    assert {row["run"] for row in rows(tmp_path / "r_files" / "scores.csv")} == {"joint", "cggm"}


def test_nothing_to_report_is_an_error_that_names_every_folder(tmp_path, monkeypatch, capsys):
    command(monkeypatch, "report", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "r.html", code=1)
    told = capsys.readouterr().err
    assert "expected folders of finished runs" in told
    assert all(f"{tmp_path / name} is not a run folder" in told for name in "ab")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taken", ["r.html", "r_files"])
def test_nothing_is_overwritten(taken, trained, tmp_path, monkeypatch, capsys):
    (tmp_path / taken).write_text("mine")
    command(monkeypatch, "report", trained / "joint", "-o", tmp_path / "r.html", code=1)
    assert f"{taken} is there already" in capsys.readouterr().err
    assert (tmp_path / taken).read_text() == "mine"


def test_without_a_name_the_next_free_one_is_taken(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "report_files").mkdir()
    assert [write_report([digits]).name for _ in range(2)] == ["report-2.html", "report-3.html"]


def test_what_a_run_lacks_is_said_with_the_command_that_makes_it(pair, tmp_path):
    for name in ("gradients.jsonl", "cost.json"):
        (pair[0] / name).unlink(missing_ok=True)
    page = assert_sound(write_report(pair, tmp_path / "r.html"))
    assert "joint has no gradients.jsonl" in page.visible
    assert "cggm has no gradients.jsonl" not in page.visible
    assert "Nothing was logged: train.log_every is longer than the training." in page.visible
    for words in (
        "view RUN --all",
        "evaluate RUN --subsets all",
        "evaluate RUN --calibration",
        "probe RUN",
        "evaluate RUN --corrupt",
    ):
        assert f"cggm-med {words}" in page.visible
    cost = page.text.split('id="cost"', 1)[1].split("</section>", 1)[0]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", cost.split("joint", 1)[1].split("</tr>", 1)[0])
    assert cells == ["joint", *["–"] * 7]


def test_evaluations_that_a_run_holds_are_shown(pair, tmp_path):
    folder = pair[1] / "subsets" / "test"
    folder.mkdir(parents=True)
    content = results(pair[1])
    content["tables"] = [
        {"title": "Dice", "header": ["modalities", "mean"], "rows": [["flair", "0.123 ± 0.1"]], "detail": False}
    ]
    content |= {"cases": [{"case": "a", "subset": "flair", "region": "WT", "dice": 0.123}], "heads": []}
    content |= {"summary": [{"subset": "flair", "region": "mean", "dice_mean": 0.123}], "rules": {"subset": "a rule"}}
    (folder / "results.json").write_text(json.dumps(content))
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "heat.png")
    broken = pair[1] / "probe" / "test"
    broken.mkdir(parents=True)
    (broken / "results.json").write_text("{")
    page = assert_sound(write_report(pair, tmp_path / "r.html"))
    part = page.text.split('id="modality-subsets"', 1)[1].split("</section>", 1)[0]
    assert "0.123 ± 0.1" in part
    assert "a rule" in part
    assert "None of joint yet" in part
    assert 'alt="Modality subsets of cggm, test"' in part
    assert (tmp_path / "r_files" / "subsets-cggm_test-heat.png").read_bytes() == (folder / "heat.png").read_bytes()
    assert rows(tmp_path / "r_files" / "subsets-cggm_test.csv")[0]["dice"] == "0.123"
    assert "cggm, test: results.json is damaged" in page.visible


def test_cases_link_to_their_pages_in_the_viewer_where_these_exist(pair, tmp_path):
    case = results(pair[0])["cases"][0]["case"]
    (pair[0] / "viewer").mkdir()
    (pair[0] / "viewer" / f"{case}.html").write_text("a page")
    (tmp_path / "reports").mkdir()
    page = assert_sound(write_report(pair, tmp_path / "reports" / "r.html"))
    links = [a["href"] for a in page.all("a") if "viewer" in a["href"]]
    assert set(links) == {f"../{pair[0].name}/viewer/{case}.html"}
    # In the means, at each region of this run, and at its picture; nowhere for the other run.
    assert len(links) == 1 + 3 + 1
    assert "cggm-med view RUN --all" not in page.visible


def test_a_page_that_would_be_too_large_is_refused_and_leaves_nothing(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "MAX_PAGE_BYTES", 50_000)
    with pytest.raises(
        OutputError, match=r"report of 2 runs would have 0\.\d+ MB; expected at most 0.05; name fewer runs"
    ):
        write_report(pair, tmp_path / "r.html")
    assert not list(tmp_path.glob("r*"))


def test_many_cases_and_heavy_pictures_stay_under_the_limit(pair, tmp_path):
    """Noise is what cannot be compressed."""
    template = results(pair[0])["cases"][0]
    ids = [f"case-{i:05}-{'x' * 40}" for i in range(1000)]
    for run in pair:
        made = [{**template, "case": id, "dice": i / 1000} for i, id in enumerate(ids)]
        edit(run, cases=[{**row, "region": region} for row in made for region in ("WT", "TC")])
        splits = json.loads((run / "splits.json").read_text())
        (run / "splits.json").write_text(json.dumps({**splits, "test": ids}))
        noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
        for id in ids[:7]:
            Image.fromarray(noise).save(run / "figures" / f"{id}.png", compress_level=0)
    page = assert_sound(write_report(pair, tmp_path / "r.html"))
    assert f"The {MAX_ROWS} worst of 4000 rows" in page.visible
    assert f"{MAX_PICTURES} of 14 pictures" in page.visible
    assert "Left out of the page, which would be too large" in page.visible
    assert len(rows(tmp_path / "r_files" / "cases.csv")) == 4000
    assert len(list((tmp_path / "r_files").glob("case-*.png"))) == MAX_PICTURES


def test_the_worst_cases_are_drawn_whichever_they_are(phantom, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "DRAWN_CASES", 0)
    monkeypatch.setattr(scoring, "DRAWN_WORST", 1)
    config = small_config(phantom, cache, data__test="0.5", data__validation="0", train__epochs="1")
    report = runs.start(config, tmp_path / "run", quiet())
    found = {}
    for row in report.scores.cases:
        found[row["case"]] = found.get(row["case"], 0) + row["dice"]
    assert len(found) == 3
    assert len(set(found.values())) == 3, "else nothing is shown"
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()} - {"learning", "modalities"}
    assert drawn == {min(found, key=found.get)}


def test_keeping_gradients_changes_no_bit_of_training(phantom, cache, tmp_path, monkeypatch):
    from cggm_med.testing.runs import expect_same_run, final_state

    config = small_config(phantom, cache, train__epochs="2")
    runs.start(config, tmp_path / "with", quiet())
    monkeypatch.setattr(runs, "GradientLog", lambda *args: None)
    runs.start(config, tmp_path / "without", quiet())
    assert (tmp_path / "with" / "gradients.jsonl").exists()
    assert not (tmp_path / "without" / "gradients.jsonl").exists()
    shutil.copy(tmp_path / "with" / "gradients.jsonl", tmp_path / "without")
    expect_same_run(tmp_path / "with", tmp_path / "without")
    assert final_state(tmp_path / "with")["step"] == 8


def chromium(folder, *words):
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
    flags += ["--virtual-time-budget=4000", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run([CHROMIUM, *flags, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_shows_and_sorts_it(written, tmp_path):
    """Nothing is refused or fails; a press of a column's button sorts, a second one turns it round."""
    address = written.as_uri()
    shown = chromium(tmp_path, "--enable-logging=stderr", f"--screenshot={tmp_path / 's.png'}", address)
    assert "CONSOLE" not in shown.stderr
    assert np.asarray(Image.open(tmp_path / "s.png").convert("L")).std() > 5
    # Our own page lets no other script run; so the press is added to a copy without that rule.
    press = """<script>
    const tables = [...document.querySelectorAll("table.sortable")];
    const table = tables.find((t) => /Every score/.test(t.caption.textContent));
    const button = [...table.querySelectorAll("th button")].find((b) => b.textContent === "HD95 [mm]");
    const column = button.closest("th").cellIndex;
    const values = () => [...table.tBodies[0].rows].map((r) => Number(r.cells[column].dataset.value));
    const orders = [];
    for (let i = 0; i < 2; i++) { button.focus(); button.click();
      orders.push([button.closest("th").getAttribute("aria-sort"), values()]); }
    document.title = JSON.stringify(orders);
    </script></body>"""
    copy = re.sub(r"<meta http-equiv=.*?>", "", written.read_text()).replace("</body>", press)
    (tmp_path / "copy.html").write_text(copy)
    content = chromium(tmp_path, "--dump-dom", (tmp_path / "copy.html").as_uri()).stdout
    (up, rising), (down, falling) = json.loads(re.search("<title>(.*?)</title>", content)[1])
    assert (up, down) == ("ascending", "descending")
    assert rising == sorted(rising)
    assert falling == sorted(rising, reverse=True)
    assert len(set(rising)) > 1
