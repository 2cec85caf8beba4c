"""Robustness: clean scans score as ever, cells can be replayed alone, and a table is whole or not there."""

import csv
import json
import shutil
import zlib

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import processes
from helpers.command_line import command
from helpers.pictures import drawn
from helpers.small_runs import quiet, trained_run
from matplotlib.image import imread

from cggm_med.data.volumes.artefacts import ARTEFACTS, corrupt
from cggm_med.errors import ConfigError, OutputError, UnknownName
from cggm_med.evaluation.ask import ask
from cggm_med.evaluation.robustness import question as robustness
from cggm_med.evaluation.robustness.conditions import parse_conditions
from cggm_med.evaluation.robustness.question import RobustnessQuestion
from cggm_med.evaluation.robustness.table import robustness_scores
from cggm_med.inference.predictor import Predictor
from cggm_med.metrics.overlap import dice
from cggm_med.randomness import random_seed

MODALITIES = ("flair", "t1", "t1ce", "t2")
WANTED = "motion,ghosting,bias,spike,noise,anisotropy,missing:flair,missing:t2+flair"


@pytest.fixture(scope="module")
def scans(phantom):
    return phantom


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    long_enough = {"train__epochs": "2", "train__steps_per_epoch": "20"}  # not to take the whole head for a tumour
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, data__test="0.4", **long_enough)


@pytest.fixture(scope="module")
def table(run):
    """The folder of the whole suite at the highest severity."""
    with pytest.MonkeyPatch.context() as patch, drawn():
        command(patch, "evaluate", run, "--corrupt", WANTED, "--severity", "5")
    return run / "robustness" / "test"


def rows_of(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def cell(rows, artefact, modalities, severity):
    wanted = {"artefact": artefact, "modalities": modalities, "severity": str(severity)}
    return [row for row in rows if row.items() >= wanted.items()]


def test_clean_scans_score_exactly_as_in_a_plain_evaluation(table, run):
    plain = json.loads((run / "results.json").read_text())
    expected = [(row["case"], row["region"], row["dice"]) for row in plain["cases"]]
    rows = cell(rows_of(table), "clean", "", 0)
    assert [(row["case"], row["region"], float(row["dice"])) for row in rows] == expected
    assert len({case for case, _, _ in expected}) == 2

    suite = json.loads((table / "results.json").read_text())
    assert suite["headline"] == plain["headline"]
    means = {row["region"]: row for row in suite["summary"] if row["artefact"] == "clean"}
    for row in plain["summary"]:
        assert means[row["region"]]["dice_mean"] == row["dice_mean"]
        assert means[row["region"]]["dice_sd"] == row["dice_sd"]
        assert means[row["region"]]["dice_drop"] == 0


def test_every_condition_is_there(table):
    rows = rows_of(table)
    cells = 1 + 6 * 5 + 2
    assert len(rows) == cells * 2 * 3
    assert len({(r["artefact"], r["modalities"], r["severity"]) for r in rows}) == cells
    for modality in (*MODALITIES, "+".join(MODALITIES)):
        assert len(cell(rows, "spike", modality, 5)) == 6
    assert {r["amount"] for r in rows if r["artefact"] == "noise"} == {"1.0"}

    text = (table / "results.md").read_text()
    assert "## Noise: Dice by severity, mean of WT, TC, ET" in text
    assert "| all at once |" in text
    assert "| flair+t2 |" in text
    assert "Severity 1 to 5: 0.1, 0.25, 0.5, 0.75, 1 (standard deviation of the noise" in text
    assert "- seed: 0" in text
    suite = json.loads((table / "results.json").read_text())
    assert len(suite["summary"]) == cells * 4
    assert imread(table / "robustness.png").shape[2] == 4
    assert {p.name for p in table.iterdir()} == {
        *("findings.json", "results.json", "results.csv", "results.md", "robustness.png")
    }


def test_a_reader_of_one_modality_minds_only_artefacts_in_it(run, tmp_path, monkeypatch):
    """Bright FLAIR is called tumour, without training: only worse FLAIR scans make that worse."""

    def read(predict, image, *args, **rest):
        return (image[:1] > 1.2).float().expand(3, *image.shape[1:])

    monkeypatch.setattr("cggm_med.task.scan_to_mask.predict_volume", read)
    question = RobustnessQuestion(WANTED.partition(",missing")[0], "1,5")
    report = ask(question, run, {}, quiet(), split=None, out=tmp_path / "out")
    found = {
        (r["artefact"], r["modalities"], r["severity"]): r["dice_mean"]
        for r in report.scores.summary
        if r["region"] == "WT"
    }
    clean = found["clean", "", 0]
    assert clean > 0.4
    for artefact in ARTEFACTS:
        assert found[artefact, "t1", 5] == found[artefact, "t2", 5] == clean
        assert found[artefact, "flair", 5] == found[artefact, "+".join(MODALITIES), 5]
        assert found[artefact, "flair", 5] < clean - 0.02, artefact
        assert found[artefact, "flair", 5] < found[artefact, "flair", 1], artefact


def test_a_cell_alone_has_the_number_that_it_has_in_the_table(table, run, tmp_path, monkeypatch):
    words = ["--corrupt", "bias,missing:flair", "--severity", "5"]
    for name in ("a", "b"):
        command(monkeypatch, "evaluate", run, *words, "--out", tmp_path / name)
    assert (tmp_path / "a" / "results.csv").read_bytes() == (tmp_path / "b" / "results.csv").read_bytes()
    whole, alone = rows_of(table), rows_of(tmp_path / "a")
    for key in (("bias", "t1ce", 5), ("bias", "+".join(MODALITIES), 5), ("missing", "flair", 0), ("clean", "", 0)):
        assert cell(alone, *key) == cell(whole, *key) != []

    command(monkeypatch, "evaluate", run, *words, "--set", "train.seed=1", "--out", tmp_path / "c")
    other = rows_of(tmp_path / "c")
    everything = "+".join(MODALITIES)
    assert cell(other, "bias", everything, 5) != cell(whole, "bias", everything, 5)
    assert cell(other, "clean", "", 0) == cell(whole, "clean", "", 0)


def test_a_scanner_that_delivers_the_artefact_gives_the_same_dice(table, run, scans, tmp_path):
    """Independent path: corrupted files are written, and segmented as any scan."""
    predictor = Predictor(run, "cpu", trust_names=True)
    rows = rows_of(table)
    case = rows[0]["case"]
    files = {m: scans / case / f"{case}_{m}.nii.gz" for m in MODALITIES}
    truth = np.asarray(nib.load(scans / case / f"{case}_seg.nii.gz").dataobj) > 0

    def score(images):
        mask = predictor.predict(case, images).labels > 0
        return dice(torch.from_numpy(mask), torch.from_numpy(truth))

    def expected(*key):
        return next(float(r["dice"]) for r in cell(rows, *key) if r["case"] == case and r["region"] == "WT")

    scan = nib.load(files["flair"])
    seed = random_seed(0, 6, *(zlib.crc32(name.encode()) for name in (case, "noise", "flair")))
    noisy = corrupt(np.asarray(scan.dataobj, np.float32), (5, 5, 5), "noise", 5, seed)
    nib.save(nib.Nifti1Image(noisy, scan.affine), tmp_path / "noisy.nii.gz")
    assert score({**files, "flair": tmp_path / "noisy.nii.gz"}) == expected("noise", "flair", 5)
    assert score({m: files[m] for m in ("t1", "t1ce")}) == expected("missing", "flair+t2", 0)
    assert score(files) == expected("clean", "", 0)


def test_only_the_named_modalities_change(run, monkeypatch, tmp_path):
    seen = {}

    def watch(*args, **options):
        moved, grid, backgrounds = real(*args, **options)
        seen[len(seen)] = moved["image"].as_tensor().numpy()
        return moved, grid, backgrounds

    real = robustness.to_network
    monkeypatch.setattr(robustness, "to_network", watch)
    ask(RobustnessQuestion("spike", "3"), run, {}, quiet(), split="validation", out=tmp_path / "out")
    clean, *struck = seen.values()
    assert len(struck) == len(MODALITIES) + 1
    for number, image in enumerate(struck):
        changed = [not np.array_equal(a, b) for a, b in zip(clean, image, strict=True)]
        assert changed == [number in (m, len(MODALITIES)) for m in range(len(MODALITIES))]
        outside = clean == 0
        assert (image[outside] == 0).all()


def test_nothing_is_overwritten(table, run, scans, tmp_path, monkeypatch):
    before = (table / "results.csv").read_bytes()
    command(monkeypatch, "evaluate", run, "--corrupt", "missing:t1")
    assert (table / "results.csv").read_bytes() == before
    assert (table.parent / "test-2" / "results.csv").exists()
    with pytest.raises(OutputError, match="already exists; choose another folder with --out"):
        ask(RobustnessQuestion("noise", "1"), run, {}, quiet(), split=None, out=table)

    one = tmp_path / "one" / "scans"
    other = tmp_path / "other" / "scans"
    for folder, case in ((one, "BraTS2021_00000"), (other, "BraTS2021_00001")):
        shutil.copytree(scans / case, folder / case)
        command(monkeypatch, "evaluate", run, "--data", folder, "--split", "all")
    cases = [
        json.loads((run / "evaluations" / name / "results.json").read_text())["cases"][0]["case"]
        for name in ("scans", "scans-2")
    ]
    assert cases == ["BraTS2021_00000", "BraTS2021_00001"]
    assert (run / "evaluations" / "scans-2" / "figures" / "BraTS2021_00001.png").exists()


def test_a_suite_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no pen")

    monkeypatch.setattr(robustness, "robustness_figure", fail)
    with pytest.raises(RuntimeError, match="no pen"):
        ask(RobustnessQuestion("missing:t1", "1"), run, {}, quiet(), split=None, out=tmp_path / "x" / "y")
    assert list((tmp_path / "x").iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "severities", "message"),
    [
        ("moton", "1", "no artefact 'moton'. Did you mean 'motion'. Known: anisotropy, bias, .*missing:MODALITY"),
        ("motion:flair", "1", "no artefact 'motion:flair'"),
        ("", "1", "no artefact ''"),
        ("noise", "0..3", "no severity '0'. Known: 1, 2, 3, 4, 5"),
        ("noise", "2..", "no severity ''"),
        ("noise", "bad", "no severity 'bad'"),
        ("missing:adc", "1", "no modality in this run 'adc'. Known: flair, t1, t1ce, t2"),
        ("missing", "1", "no modality in this run ''"),
    ],
)
def test_unknown_names(run, wanted, severities, message, monkeypatch):
    monkeypatch.setattr("cggm_med.task.segmentation.find_cases", lambda *args, **rest: pytest.fail("data were read"))
    with pytest.raises(UnknownName, match=message.replace("?", ".")):
        ask(RobustnessQuestion(wanted, severities), run, {}, quiet(), split=None, out=None)


def test_impossible_requests(run, tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError, match="missing:t1.t2.flair.t1ce leaves no modality to see"):
        parse_conditions("missing:t1+t2+flair+t1ce", "1", MODALITIES)
    with pytest.raises(ConfigError, match=r"severity is 5\.\.1"):
        parse_conditions("noise", "5..1", MODALITIES)
    command(monkeypatch, "evaluate", run, "--severity", "3", code=2)
    (tmp_path / "config.yaml").write_text("task: {name: avdigits}\nstrategy: {name: joint}\n")
    capsys.readouterr()
    command(monkeypatch, "evaluate", tmp_path, "--corrupt", "noise", code=1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.endswith("is a run of task 'avdigits', whose data are no scans to corrupt")


def test_conditions_by_hand():
    found = parse_conditions("noise,missing:t1ce+flair,noise", "2..3", ("flair", "t1ce", "t1"))
    keys = [(c.artefact, "+".join(c.modalities), c.severity, c.amount) for c in found]
    assert keys == [
        ("clean", "", 0, 0),
        *(("noise", m, s, a) for m in ("flair", "t1ce", "t1", "flair+t1ce+t1") for s, a in ((2, 0.25), (3, 0.5))),
        ("missing", "flair+t1ce", 0, 0),
    ]
    assert len(parse_conditions("noise", "1..5", ("t1",))) == 1 + 5  # one modality is all modalities


def test_summary_by_hand():
    todo = parse_conditions("noise", "4", ("t1",))
    dices = {("a", 0): (0.8, 0.6), ("b", 0): (0.4, 1.0), ("a", 4): (0.5, 0.5), ("b", 4): (0.3, 0.1)}
    rows = [
        {"case": case, **c.record, "region": region, "dice": value}
        for case in "ab"
        for c in todo
        for region, value in zip(("WT", "TC"), dices[case, c.severity], strict=True)
    ]
    scores = robustness_scores(rows, todo, ("t1",))
    found = {(r["severity"], r["region"]): (r["dice_mean"], r["dice_sd"], r["dice_drop"]) for r in scores.summary}
    # Averages of a and b: clean 0.7 and 0.7; noisy 0.5 and 0.2, whose deviation is 0.3 / sqrt(2).
    assert found[0, "mean"] == pytest.approx((0.7, 0, 0))
    assert found[4, "mean"] == pytest.approx((0.35, 0.3 / 2**0.5, 0.35))
    assert found[4, "WT"] == pytest.approx((0.4, 0.2 / 2**0.5, 0.2))
    assert scores.tables[0].header == ("modality", "clean", "4")
    assert scores.tables[0].rows == (("t1", "0.700", "0.350"),)
    assert [t.detail for t in scores.tables] == [False, True, True]
    alone = robustness_scores([r for r in rows if r["case"] == "a"], todo, ("t1",))
    assert alone.summary[0]["dice_sd"] is None


@pytest.mark.slow
def test_two_processes_share_the_cases(table, run, tmp_path):
    words = ["evaluate", str(run), "--corrupt", "noise", "--severity", "5", "--out", str(tmp_path / "two")]
    first, second = processes.run_together(2, "-m", "cggm_med.cli", *words)
    assert first.returncode == second.returncode == 0, first.stderr[-3000:] + second.stderr[-3000:]
    assert "6 conditions x 2 cases = 12 predictions" in first.stdout
    found, whole = rows_of(tmp_path / "two"), rows_of(table)
    expected = [row for row in whole if row["artefact"] in ("clean", "noise") and row["severity"] in ("0", "5")]
    assert found == expected
