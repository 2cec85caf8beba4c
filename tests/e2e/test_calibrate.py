"""What is measured for each subset of the modalities, against predictions without the other files, and its use."""

import csv
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.command_line import command, same_values
from helpers.small_runs import trained_run
from scipy.ndimage import distance_transform_edt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import spearmanr

from cggm_med.errors import CheckpointError, DataError
from cggm_med.inference.predictor import Predictor
from cggm_med.metrics.overlap import dice
from cggm_med.runs.expectations import expectations_of
from cggm_med.runs.finished_run import FinishedRun

MODALITIES = ("flair", "t1", "t1ce", "t2")
REGIONS = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
CASES = [f"BraTS2021_{n:05d}" for n in range(6)]
TRAINED, *VALIDATED = CASES
LACKS_T1CE = CASES[5]


@pytest.fixture(scope="module")
def scans(phantom, tmp_path_factory):
    """The phantom, of which one case has no T1ce."""
    folder = tmp_path_factory.mktemp("scans") / "scans"
    for case in CASES:
        (folder / case).mkdir(parents=True)
        for file in (phantom / case).iterdir():
            if file.name != f"{LACKS_T1CE}_t1ce.nii.gz":
                os.link(file, folder / case / file.name)
    return folder


@pytest.fixture(scope="module")
def run(scans, cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    splits = {"train": [TRAINED], "validation": VALIDATED, "test": []}
    (folder / "splits.json").write_text(json.dumps(splits))
    options = {"data__allow_missing": "true", "data__splits": str(folder / "splits.json"), "data__overlap": "0"}
    options |= {"strategy__name": "joint", "train__epochs": "1", "train__steps_per_epoch": "15", "optim__lr": "0.03"}
    options |= {"train__batch_size": "1", "model__prior_bias": "true", "data__patch_size": "[32,32,32]"}
    made = trained_run(folder / "run", scans, cache, **options)
    with pytest.MonkeyPatch.context() as patch:
        shown = made.parent / "calibrate.json"
        command(patch, "calibrate", made, "--json", shown)
        assert same_values(shown, made / "expectations.json", "calibrate")
    return made


@pytest.fixture
def measured(run):
    return json.loads((run / "expectations.json").read_text())


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run, "cpu", trust_names=True)


def files(scans, case, modalities=MODALITIES):
    return {m: scans / case / f"{case}_{m}.nii.gz" for m in modalities}


def words_of(images):
    return [word for modality, file in images.items() for word in (f"--{modality}", file)]


def truth(scans, case):
    label = nib.load(scans / case / f"{case}_seg.nii.gz")
    return {region: np.isin(np.asarray(label.dataobj), of) for region, of in REGIONS.items()}


def masks(prediction):
    return dict(zip(REGIONS, prediction.convention.to_regions(prediction.labels), strict=True))


def overlap(a, b):
    return dice(torch.from_numpy(a), torch.from_numpy(b))


@pytest.mark.parametrize("subset", [("flair", "t2"), ("t1ce",)], ids="+".join)
def test_dice_and_temperature_are_those_of_predictions_from_exactly_this_subset(measured, predictor, scans, subset):
    held = [case for case in VALIDATED if "t1ce" not in subset or case != LACKS_T1CE]
    scores, p, inside = [], [], []
    for case in held:
        found, true = predictor.predict(case, files(scans, case, subset)), truth(scans, case)
        scores.append({region: overlap(mask, true[region]) for region, mask in masks(found).items()})
        region = found.probability[0]
        near = distance_transform_edt(~(true["WT"] | (region >= 0.5)), sampling=(5, 5, 5)) <= 10
        p.append(region[near])
        inside.append(true["WT"][near])
    of = measured["subsets"]["+".join(subset)]
    assert of["cases"] == len(held)
    for region in REGIONS:
        assert of["regions"][region]["cases"] == len(held)
        assert of["regions"][region]["dice_mean"] == pytest.approx(np.mean([s[region] for s in scores]))
        assert of["regions"][region]["dice_sd"] == pytest.approx(np.std([s[region] for s in scores], ddof=1))
    assert of["mean"]["dice_mean"] == pytest.approx(np.mean([list(s.values()) for s in scores]))
    assert of["regions"]["WT"]["dice_mean"] > 0.2  # masks that say something

    odds, inside = logit(np.concatenate(p).astype(float)).clip(-16, 16), np.concatenate(inside)

    def nll(temperature):
        return np.where(inside, np.logaddexp(0, -odds / temperature), np.logaddexp(0, odds / temperature)).mean()

    blind = minimize_scalar(nll, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-6}).x
    assert of["regions"]["WT"]["temperature"] == pytest.approx(blind, rel=5e-3)


def test_quality_is_the_agreement_with_masks_from_fewer_files(measured, run, predictor, scans, tmp_path, monkeypatch):
    """And what predict says of a validation case is what was measured on it; its mask is the same to the last bit."""
    case, subset = VALIDATED[0], ("flair", "t1", "t2")
    images, parts = (
        files(scans, case, subset),
        [subset[:1], subset[1:2], subset[2:], subset[:2], subset[1:], subset[::2]],
    )
    own = masks(predictor.predict(case, images))
    others = [masks(predictor.predict(case, files(scans, case, part))) for part in parts]
    expected = {region: np.mean([overlap(own[region], other[region]) for other in others]) for region in REGIONS}
    expected["mean"] = np.mean([*expected.values()])
    rows = [r for r in measured["rows"] if (r["case"], r["subset"]) == (case, "+".join(subset))]
    assert {r["region"]: r["quality"] for r in rows} == pytest.approx(expected)
    assert 0 < expected["WT"] < 1

    command(monkeypatch, "predict", run, *words_of(images), "-o", tmp_path / "a.nii.gz", "--trust-names")
    judged = ["--review-below", "0.5", "--trust-names"]
    command(monkeypatch, "predict", run, *words_of(images), "-o", tmp_path / "b.nii.gz", *judged)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    plain, facts = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert facts["quality"] == pytest.approx(expected)
    assert plain["quality"] is None
    assert (
        facts["quality_rank_correlation"]["WT"]
        == measured["subsets"]["flair+t1+t2"]["regions"]["WT"]["rank_correlation"]
    )


def test_the_rank_correlation_is_scipys(measured):
    for subset, cases in (("flair+t1+t2", 5), ("flair+t1ce", 4)):
        rows = [r for r in measured["rows"] if (r["subset"], r["region"]) == (subset, "WT")]
        found = measured["subsets"][subset]["regions"]["WT"]["rank_correlation"]
        assert found["cases"] == len(rows) == cases
        expected = None if cases < 5 else spearmanr(*([r[k] for r in rows] for k in ("quality", "dice"))).statistic
        assert found["value"] == (None if expected is None else pytest.approx(expected))
    assert all(r["quality"] is None for r in measured["rows"] if "+" not in r["subset"])
    assert {r["case"] for r in measured["rows"] if "t1ce" in r["subset"]} == {*VALIDATED} - {LACKS_T1CE}
    assert len(measured["subsets"]) == 15


def test_predict_uses_the_temperature_of_what_is_present(measured, run, scans, tmp_path, monkeypatch):
    given = ("t1", "t2")
    words = ["-o", tmp_path / "a.nii.gz", "--extra", "probabilities", "--extra", "calibrated", "--trust-names"]
    command(monkeypatch, "predict", run, *words_of(files(scans, TRAINED, given)), *words)
    p, scaled = (np.asarray(nib.load(tmp_path / f"a_{n}.nii.gz").dataobj) for n in ("probabilities", "calibrated"))
    of = measured["subsets"]["t1+t2"]["regions"]
    temperatures = [of[region]["temperature"] for region in REGIONS]
    assert temperatures != [
        region["temperature"] for region in measured["subsets"]["flair+t1+t1ce+t2"]["regions"].values()
    ]
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(scaled, expit(logit(p.astype(float)) / temperatures), atol=1e-6)
    assert np.abs(scaled - p).max() > 0.01
    np.testing.assert_array_equal(scaled >= 0.5, p >= 0.5)
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["temperature"] == {region: of[region]["temperature"] for region in REGIONS}
    assert facts["expected_dice"]["WT"] == {"mean": of["WT"]["dice_mean"], "sd": of["WT"]["dice_sd"], "cases": 5}
    assert facts["measured_on"] == "5 validation cases of the run, predicted from exactly t1+t2"


def test_a_cohort_says_which_masks_to_review(run, scans, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    for case, given in ((VALIDATED[0], MODALITIES), (VALIDATED[1], ("t1",)), (LACKS_T1CE, ("flair", "t2"))):
        (data / case).mkdir(parents=True)
        for file in files(scans, case, given).values():
            os.link(file, data / case / file.name)
    command(monkeypatch, "predict", run, data, "-o", tmp_path / "out", "--review-below", "1", "--trust-names")
    with (tmp_path / "out" / "cohort.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert [rows[case]["review"] for case in (VALIDATED[0], VALIDATED[1], LACKS_T1CE)] == ["yes", "unknown", "yes"]
    assert rows[VALIDATED[1]]["quality"] == ""
    assert (
        float(rows[VALIDATED[0]]["quality"])
        == json.loads((tmp_path / "out" / f"{VALIDATED[0]}.json").read_text())["quality"]["mean"]
    )
    said = capsys.readouterr().out
    assert "predicted quality below 1: 2 of 2 masks, to review:" in said
    assert f"quality unknown of 1: {VALIDATED[1]} (t1)" in said
    assert "in validation, flair+t2: " in said
    facts = json.loads((tmp_path / "out" / f"{VALIDATED[1]}.json").read_text())
    assert facts["quality"] is None
    assert "a single modality" in facts["quality_of"]


@pytest.fixture
def other(run, tmp_path):
    """A copy of the run, to spoil."""
    return shutil.copytree(run, tmp_path / "run")


def test_what_belongs_to_other_weights_is_refused_in_a_line(other, scans, tmp_path, monkeypatch, capsys):
    file, images = other / "expectations.json", files(scans, VALIDATED[0], ("t1",))
    stored = json.loads(file.read_text())
    for spoilt, reason in (
        ({**stored, "run": "0" * 24}, "other weights"),
        ({**stored, "postprocessing": {"component_filter": {"kept": {"WT": 10.0}}}}, "another postprocessing"),
        ({"subsets": {}}, "is damaged"),
    ):
        file.write_text(json.dumps(spoilt))
        with pytest.raises(CheckpointError, match=f"{reason}.*measure with: cggm-med calibrate "):
            expectations_of(FinishedRun(other))
        with pytest.warns(UserWarning, match=f"{reason}.*; it is not used"):
            command(monkeypatch, "predict", other, *words_of(images), "-o", tmp_path / "a.nii.gz", "--trust-names")
        facts = json.loads((tmp_path / "a.json").read_text())
        assert facts["expected_dice"] is None
        assert facts["temperature"] is None
        assert facts["measured_on"].startswith("nothing: the run's expectations.json ")
        for words in (["--extra", "calibrated"], ["--review-below", "0.8"]):
            with pytest.warns(UserWarning, match="not used"):
                command(monkeypatch, "predict", other, *words_of(images), "-o", tmp_path / "b.nii.gz", *words, code=1)
            assert reason in capsys.readouterr().err
    file.unlink()
    command(
        monkeypatch, "predict", other, *words_of(images), "-o", tmp_path / "b.nii.gz", "--review-below", ".8", code=1
    )
    assert "was not measured; measure with: cggm-med calibrate " in capsys.readouterr().err
    assert not list(tmp_path.glob("b*"))


def test_a_subset_that_was_not_measured_has_no_temperature(other, scans, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "calibrate", other, "--subsets", "flair")
    predictor = Predictor(other, "cpu", trust_names=True)
    found = predictor.predict("case", files(scans, TRAINED, ("t1",)))
    assert found.expectation is None
    assert found.measured_on == "none of the run's validation cases was measured from exactly these modalities"
    with pytest.raises(DataError, match=r"case: a temperature was not measured for each region from exactly t1 \("):
        _ = found.calibrated
    words = ["-o", tmp_path / "b.nii.gz", "--extra", "calibrated", "--trust-names"]
    command(monkeypatch, "predict", other, *words_of(files(scans, TRAINED, ("t1",))), *words, code=1)
    assert "leave out --extra calibrated" in capsys.readouterr().out
    assert not list(tmp_path.glob("b*"))
    # Mirrored scans have other probabilities.
    flipped = Predictor(other, "cpu", flips=True)
    assert (flipped.expectations, flipped.not_measured) == (None, "what to expect was measured without --flips")
    command(monkeypatch, "predict", other, scans, "-o", tmp_path / "c", "--flips", "--review-below", "0.8", code=2)


def test_what_cannot_be_measured(other, scans, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "calibrate", other, "--subsets", "t1,adc", code=1)
    command(monkeypatch, "calibrate", other, "--set", "data.overlap=0.5", code=1)
    moved = shutil.copytree(scans, tmp_path / "scans")
    for case in VALIDATED:
        t2 = nib.load(files(moved, case)["t2"])
        brighter = np.asanyarray(t2.dataobj) + 1
        nib.save(nib.Nifti1Image(brighter, t2.affine, t2.header), files(moved, case)["t2"])
    command(monkeypatch, "calibrate", other, "--set", f"data.path={moved}", code=1)
    splits = json.loads((other / "splits.json").read_text())
    (other / "splits.json").write_text(json.dumps({**splits, "validation": []}))
    before = (other / "expectations.json").read_bytes()
    command(monkeypatch, "calibrate", other, code=1)
    unknown, setting, changed, none = capsys.readouterr().err.strip().splitlines()
    assert unknown.startswith("UnknownName: no modality in this run 'adc'")
    assert setting.startswith("ConfigError: data.overlap: masks are measured as predict makes them; only data.path, ")
    assert changed.startswith("DataError: 5 of 5 validation cases have other images than when the run was trained")
    assert none.startswith(f"DataError: {other} has no validation cases")
    assert (other / "expectations.json").read_bytes() == before
