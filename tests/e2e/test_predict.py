"""Masks of new scans: on their own grid, from any subset of modalities, whole or not there."""

import csv
import gzip
import hashlib
import json
import re
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.command_line import command
from helpers.small_runs import as_if_trained_with, filter_components, trained_run

from cggm_med.bundle.training import TrainedRun
from cggm_med.data.folders.streamed import shard_of
from cggm_med.data.volumes.io import write_volume
from cggm_med.device import held_bytes
from cggm_med.errors import CheckpointError, ConfigError, DataError, UnknownName
from cggm_med.inference.batch import find_images, predict_cases
from cggm_med.inference.predictor import Predictor
from cggm_med.inference.side_car import FIELDS, LESION_COLUMNS
from cggm_med.runs.finished_run import FinishedRun

MODALITIES = ("flair", "t1", "t1ce", "t2")


@pytest.fixture(scope="module")
def scans(phantom):
    return phantom


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    settings = {"train__epochs": "1", "task__component_filter": "validation"}
    return trained_run(tmp_path_factory.mktemp("run") / "run", phantom, cache, **settings)


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run, "cpu")


def files(scans, number, modalities=MODALITIES):
    case = f"BraTS2021_{number:05d}"
    return {m: scans / case / f"{case}_{m}.nii.gz" for m in modalities}


def table(path):
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames, list(reader)


def words_of(images):
    return [word for modality, file in images.items() for word in (f"--{modality}", file)]


def test_the_mask_lies_on_the_scans_own_grid(run, scans, tmp_path, monkeypatch):
    command(monkeypatch, "predict", run, *words_of(files(scans, 0)), "-o", tmp_path / "mask.nii.gz")
    mask, scan = nib.load(tmp_path / "mask.nii.gz"), nib.load(files(scans, 0)["flair"])
    assert mask.shape == scan.shape
    assert np.array_equal(mask.affine, scan.affine)
    for form in ("sform", "qform"):
        affine, code = getattr(mask.header, f"get_{form}")(coded=True)
        expected, expected_code = getattr(scan.header, f"get_{form}")(coded=True)
        assert code == expected_code
        assert (affine is None) == (expected is None)
        assert affine is None or np.allclose(affine, expected)
    assert mask.get_data_dtype() == np.uint8
    assert set(np.unique(mask.dataobj)) <= {0, 1, 2, 4}
    facts = json.loads((tmp_path / "mask.json").read_text())
    assert facts["modalities"] == list(MODALITIES)
    assert facts["absent"] == []

    # What is said of it can be checked by hand.
    assert list(facts) == [field.name for field in FIELDS]
    labels = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}
    voxels = {region: int(np.isin(mask.dataobj, of).sum()) for region, of in labels.items()}
    assert facts["volume_ml"] == {region: pytest.approx(n * 0.125) for region, n in voxels.items()}  # of 5 mm
    assert any(facts["volume_ml"].values())
    for region in labels:
        listed = [lesion for lesion in facts["lesions"] if lesion["region"] == region]
        assert [lesion["lesion"] for lesion in listed] == list(range(1, facts["lesion_count"][region] + 1))
        assert sum(lesion["voxels"] for lesion in listed) + facts["small_lesion_count"][region] >= voxels[region] > 0
        assert sum(lesion["voxels"] for lesion in listed) <= voxels[region]
    for modality, file in files(scans, 0).items():
        assert facts["inputs"][modality] == hashlib.blake2b(file.read_bytes(), digest_size=20).hexdigest()
    weights = FinishedRun(run).folder.weights.read_bytes()
    assert facts["weights"] == hashlib.blake2b(weights, digest_size=12).hexdigest()
    assert (facts["device"], set(facts["seconds"])) == ("cpu", {"reading", "segmenting"})


def test_it_says_what_evaluate_scores(predictor, run, scans):
    """The case that the run held out: Dice of the mask against the label, by hand, is that of the run's report."""
    from cggm_med.metrics.overlap import dice

    row = json.loads((run / "results.json").read_text())["cases"][0]
    case = row["case"]
    found = predictor.predict(case, files(scans, int(case[-5:]))).labels > 0
    truth = np.asarray(nib.load(scans / case / f"{case}_seg.nii.gz").dataobj) > 0
    assert dice(torch.from_numpy(found), torch.from_numpy(truth)) == pytest.approx(row["dice"])


def test_the_component_filter_of_a_run_holds_wherever_its_masks_are_scored(
    predictor, run, scans, tmp_path, monkeypatch, capsys
):
    """All of ET is removed: the mask has TC's label there, and no score but that of ET changes."""
    (region,) = {row["region"] for row in json.loads((run / "results.json").read_text())["cases"]} - {"WT", "TC"}
    assert "Chosen on a run's own validation cases" in (run / "results.md").read_text()
    filtered = tmp_path / "run"
    shutil.copytree(run, filtered)
    filter_components(filtered, {region: 1e9})
    case = json.loads((run / "results.json").read_text())["cases"][0]["case"]
    images = files(scans, int(case[-5:]))
    before = predictor.predict(case, images).labels
    assert 4 in before
    command(monkeypatch, "predict", filtered, *words_of(images), "-o", tmp_path / "a.nii.gz")
    mask = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert np.array_equal(mask, np.where(before == 4, 1, before))
    assert json.loads((tmp_path / "a.json").read_text())["components"] == {region: 1e9}

    every = ["--subsets", "+".join(MODALITIES)]
    for name, options in (("whole", []), ("subset", every), ("none", ["--set", "task.component_filter=none"])):
        command(monkeypatch, "evaluate", filtered, "--out", tmp_path / name, *options)
    scored = {
        name: {
            row["region"]: row["dice"] for row in json.loads((tmp_path / name / "results.json").read_text())["cases"]
        }
        for name in ("whole", "subset", "none")
    }
    assert scored["whole"] == scored["subset"] == {**scored["none"], region: 0.0}
    assert scored["none"][region] > 0

    # A finished run may do without, or choose anew.
    for value, components in (
        ("none", {}),
        ("validation", json.loads((run / "postprocessing.json").read_text())["component_filter"]["kept"]),
    ):
        command(monkeypatch, "train", "--resume", filtered, "--set", f"task.component_filter={value}")
        assert Predictor(filtered, "cpu").volumes.component_filter.kept == components

    (filtered / "postprocessing.json").unlink()
    command(monkeypatch, "predict", filtered, *words_of(images), "-o", tmp_path / "b.nii.gz", code=1)
    assert "has not chosen a filter" in capsys.readouterr().err
    assert not (tmp_path / "b.nii.gz").exists()


@pytest.mark.parametrize("given", [("t1ce",), ("flair", "t2"), ("t2", "t1", "flair")], ids="+".join)
def test_any_subset_and_any_order(predictor, scans, given):
    images = files(scans, 1, given)
    one = predictor.predict("case", images)
    other = predictor.predict("case", dict(reversed(images.items())))
    assert np.array_equal(one.probability, other.probability)
    assert set(one.absent) == set(MODALITIES) - set(given)
    assert one.probability.shape == (3, 48, 48, 32)


def test_a_mirrored_scan_gets_the_mirrored_mask_with_flips(run, scans, tmp_path):
    """Averaged over all mirrored versions, the prediction does not depend on which of them is given."""
    predictor = Predictor(run, "cpu", flips=True)
    # A patch holds the whole scan, so that where windows lie does not matter.
    predictor.task.settle(data=replace(predictor.task.config.data, patch_size=(48, 48, 32)))
    images = files(scans, 2)
    mirrored = {}
    for modality, file in images.items():
        scan = nib.load(file)
        mirrored[modality] = tmp_path / file.name
        nib.save(nib.Nifti1Image(np.asarray(scan.dataobj)[::-1], scan.affine, scan.header), mirrored[modality])
    one, other = (predictor.predict("case", x).probability for x in (images, mirrored))
    np.testing.assert_allclose(other[:, ::-1], one, atol=1e-5)


def test_windows_may_be_larger_than_the_patches_of_training(run, scans, tmp_path):
    """The prediction is that of a network whose patches had the size of the windows."""
    patches = shutil.copytree(run, tmp_path / "run")
    as_if_trained_with(patches, data__window_size=None)
    predictor, other = Predictor(run, "cpu"), Predictor(patches, "cpu")
    assert predictor.volumes.patch_size == (16, 16, 16)
    images = files(scans, 2)
    small = other.predict("case", images).probability
    windows, _ = other.cost(other.read("case", images))
    other.task.settle(data=replace(other.task.config.data, patch_size=(32, 32, 16)))
    found = predictor.predict("case", images).probability
    assert np.array_equal(found, other.predict("case", images).probability)
    assert np.abs(found - small).max() > 1e-3
    assert predictor.cost(predictor.read("case", images))[0] < windows / 2
    assert TrainedRun(str(run)).roi_size == [32, 32, 16]

    as_if_trained_with(patches, data__window_size=[32, 32, 15])
    with pytest.raises(ConfigError, match=r"data.window_size is \[32, 32, 15\], expected multiples of 2, at least 4"):
        Predictor(patches, "cpu")


def test_a_folder_and_a_case_that_fails(run, scans, tmp_path, monkeypatch, capsys):
    data = shutil.copytree(scans, tmp_path / "data")
    for label in data.rglob("*_seg.nii.gz"):
        label.unlink()
    broken = files(data, 3)["t1"]
    broken.write_bytes(broken.read_bytes()[:500])
    command(monkeypatch, "predict", run, data, "-o", tmp_path / "out", "--json", tmp_path / "shown.json", code=1)
    said = capsys.readouterr()
    assert "1 of 6 cases failed: BraTS2021_00003" in said.err
    assert {p.name for p in (tmp_path / "out").glob("*.nii.gz")} == {
        f"BraTS2021_{n:05d}.nii.gz" for n in (0, 1, 2, 4, 5)
    }
    assert not (tmp_path / "out" / "BraTS2021_00003.json").exists()

    # The tables say what the files beside the masks say.
    (cohort, rows), (listed, lesions) = (table(tmp_path / "out" / name) for name in ("cohort.csv", "lesions.csv"))
    assert listed == list(LESION_COLUMNS)
    shown = json.loads((tmp_path / "shown.json").read_text())
    for written, values in ((rows, shown["cases"]), (lesions, shown["lesions"])):
        assert written == [{name: str(value[name]) if name in value else "" for name in written[0]} for value in values]
    assert {row["case"]: bool(row["failed"]) for row in rows} == {f"BraTS2021_{n:05d}": n == 3 for n in range(6)}
    for row in rows:
        if row["failed"]:
            assert "BraTS2021_00003_t1.nii.gz" in row["failed"]
            assert not any(row[name] for name in cohort if name not in ("case", "present", "absent", "failed"))
            continue
        facts = json.loads((tmp_path / "out" / f"{row['case']}.json").read_text())
        for region, ml in facts["volume_ml"].items():
            assert float(row[f"volume_ml {region}"]) == ml
            assert int(row[f"lesions {region}"]) == facts["lesion_count"][region]
        assert row["input t1"] == facts["inputs"]["t1"]
        assert row["weights"] == facts["weights"]
        assert "seen_in_training" in row["findings"] or not facts["findings"]
        expected = [{"case": row["case"], **{k: str(v) for k, v in of.items()}} for of in facts["lesions"]]
        assert [of for of in lesions if of["case"] == row["case"]] == expected

    tables = ("cohort.csv", "lesions.csv")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir() if p.name not in tables}
    shutil.copy(files(scans, 3)["t1"], broken)
    command(monkeypatch, "predict", run, data, "-o", tmp_path / "out", "--skip-existing")
    assert (tmp_path / "out" / "BraTS2021_00003.nii.gz").exists()
    assert all(p.stat().st_mtime_ns == time for p, time in before.items())


def test_shards_of_a_folder_are_what_the_folder_is(run, scans, tmp_path, monkeypatch, capsys):
    """Masks, files beside them and the merged table are those of one call, but for times and the columns of a mask."""
    data = tmp_path / "data"
    for number in (0, 2, 3):
        shutil.copytree(scans / f"BraTS2021_{number:05d}", data / f"BraTS2021_{number:05d}")
    broken = files(data, 3)["t1"]
    broken.write_bytes(broken.read_bytes()[:500])
    (data / "empty").mkdir()
    files(data, 2)["t2"].unlink()
    whole, out = tmp_path / "whole", tmp_path / "out"
    codes = {
        number: int(any(shard_of(name, 2) == number for name in ("BraTS2021_00003", "empty"))) for number in (1, 2)
    }
    for number, code in codes.items():
        command(monkeypatch, "predict", run, data, "-o", out, "--shard", f"{number}/2", code=code)
    command(monkeypatch, "cohort", "status", out, "--count", "--json", tmp_path / "status.json")
    said = capsys.readouterr().out
    assert "found: seen_in_training in 1 case" in said
    assert re.search(r"all +│ 2 finished +│ 2 +│ 2 +│ 0 ", said)
    assert [shard["state"] for shard in json.loads((tmp_path / "status.json").read_text())["shards"]] == [
        "finished"
    ] * 2
    command(monkeypatch, "cohort", "merge", out, "-o", tmp_path / "cohort.csv")
    (data / "empty").rmdir()
    command(monkeypatch, "predict", run, data, "-o", whole, code=1)

    (columns, rows), (merged_columns, merged) = table(whole / "cohort.csv"), table(tmp_path / "cohort.csv")
    assert merged_columns == [*columns, "mask", "sha256"]
    *merged, empty = merged
    assert empty["case"] == "empty"
    assert "no images found" in empty["failed"]
    of_time = ("seconds reading", "seconds segmenting")
    for row, other in zip(rows, merged, strict=True):
        row["failed"] = " ".join(row["failed"].split())
        assert {**row, **dict.fromkeys(of_time)} == {**{c: other[c] for c in columns}, **dict.fromkeys(of_time)}
        if not row["failed"]:
            mask = (out / other["mask"]).read_bytes()
            assert mask == (whole / f"{row['case']}.nii.gz").read_bytes()
            assert hashlib.sha256(mask).hexdigest() == other["sha256"]
    assert {row["case"]: row["absent"] for row in merged if row["absent"]} == {"BraTS2021_00002": "t2"}


def test_shards_of_a_table_and_what_cannot_be_asked(run, scans, tmp_path, monkeypatch, capsys):
    lines = [
        ",".join(["a", *(str(file) for file in files(scans, 0, ("flair", "t1")).values())]),
        f"b,,{tmp_path}/no.nii",
    ]
    (tmp_path / "cohort.csv").write_text("\n".join(["id,flair,t1", *lines]))
    command(monkeypatch, "predict", run, tmp_path / "cohort.csv", "-o", tmp_path / "out", "--shard", "1/1",
            "--require", "flair", code=1)  # fmt: skip
    _, rows = table(tmp_path / "out" / "manifest-1-of-1.csv")
    assert {row["case"]: row["failed"] for row in rows} == {
        "a": "", "b": "b: no flair in its row; add the files, or leave out the row",
    }  # fmt: skip
    monkeypatch.setattr(Predictor, "read", lambda *arguments: pytest.fail("work was done"))
    for words, code, said in [
        (("--shard", "0/4"), 2, "expected K/N with K from 1 to N"),
        (("--shard", ""), 2, "expected K/N with K from 1 to N"),
        (("--take-over",), 2, "--take-over needs --shard"),
        (("--shard", "1/1", "--require", "t9"), 1, "no modality in this run 't9'"),
        (("--shard", "1/1", "--modalities", "flair"), 1, "made with modalities None, and this call has ['flair']"),
        (("--shard", "1/1", "--series", "flair=5"), 2, "--shard is for a folder of case folders"),
    ]:
        command(monkeypatch, "predict", run, tmp_path / "cohort.csv", "-o", tmp_path / "out", *words, code=code)
        assert said in re.sub(r"[│\s]+", " ", capsys.readouterr().err)


def test_probabilities_and_uncertainty(predictor, scans, tmp_path):
    target = tmp_path / "a.nii.gz"
    predict_cases(
        predictor, {"a": files(scans, 4)}, {"a": target}, extras=["probabilities", "uncertainty"], say=lambda text: None
    )
    p, u = (np.asarray(nib.load(tmp_path / f"a_{n}.nii.gz").dataobj) for n in ("probabilities", "uncertainty"))
    assert p.shape == u.shape == (48, 48, 32, 3)
    # By hand: p = 1/4 has 2 - 3/4 log2(3) = 0.8113 bits.
    close = np.abs(p - 0.25) < 0.002
    assert close.any()
    np.testing.assert_allclose(u[close], 0.8113, atol=0.005)
    assert p.min() >= 0
    assert u.max() <= 1 + 1e-6


def test_the_same_scan_gives_the_same_bytes(predictor, scans, tmp_path):
    for name in ("a", "b"):
        predict_cases(predictor, {name: files(scans, 5)}, {name: tmp_path / f"{name}.nii.gz"}, say=lambda text: None)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.nii.gz").read_bytes())) == 352 + 48 * 48 * 32


def test_modalities_may_be_channels_of_one_file(run, scans, tmp_path, monkeypatch):
    """As in the Medical Segmentation Decathlon, whose Task01 has FLAIR, T1, T1ce and T2 in this order."""
    images = files(scans, 5)
    (tmp_path / "task").mkdir()
    scan = [nib.load(path) for path in images.values()]
    stacked = nib.Nifti1Image(np.stack([of.get_fdata(dtype=np.float32) for of in scan], -1), scan[0].affine)
    nib.save(stacked, tmp_path / "task" / "BRATS_001.nii.gz")
    channels = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    listed = {"modality": channels, "training": [], "test": ["./BRATS_001.nii.gz"]}
    (tmp_path / "task" / "dataset.json").write_text(json.dumps(listed))
    command(monkeypatch, "predict", run, tmp_path / "task", "-o", tmp_path / "masks")
    command(monkeypatch, "predict", run, *words_of(images), "-o", tmp_path / "mask.nii.gz")
    one, four = (nib.load(path) for path in (tmp_path / "masks" / "BRATS_001.nii.gz", tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(one.dataobj, four.dataobj)
    np.testing.assert_array_equal(one.affine, four.affine)


def test_bad_requests(predictor, run, scans, tmp_path):
    with pytest.raises(UnknownName, match="no modality in this run 'adc'"):
        predictor.predict("case", {"adc": files(scans, 0)["t1"]})
    with pytest.raises(DataError, match="give at least one of flair"):
        predictor.predict("case", {})
    with pytest.raises(DataError, match="cannot be segmented"):
        predictor.predict("case", {"t1": tmp_path / "none.nii.gz"})
    small = nib.load(files(scans, 0)["t1"])
    nib.save(nib.Nifti1Image(np.asarray(small.dataobj)[:40], small.affine), tmp_path / "small.nii.gz")
    with pytest.raises(DataError, match="differ in shape"):
        predictor.predict("case", {**files(scans, 0), "t1": tmp_path / "small.nii.gz"})
    with pytest.raises(ConfigError, match=r"ends with \.nii\.gz, \.nii, \.nrrd, \.mha"):
        write_volume(tmp_path / "mask.png", np.zeros((2, 2, 2), np.uint8), files(scans, 0)["t1"])
    with pytest.raises(ConfigError, match="output is mask.png"):  # before anything is read
        predict_cases(predictor, {"a": {"t1": tmp_path / "none.nii.gz"}}, {"a": tmp_path / "mask.png"})
    with pytest.raises(CheckpointError, match="not a run folder"):
        Predictor(tmp_path, "cpu")
    with pytest.raises(UnknownName, match="extra output"):
        predict_cases(predictor, {}, {}, extras=["logits"])
    assert set(find_images(predictor, scans, ["t1"])["BraTS2021_00000"]) == {"t1"}


def test_exchanged_modalities_are_refused_unless_the_names_are_trusted(run, predictor, scans, tmp_path, monkeypatch):
    images = files(scans, 0)
    exchanged = {**images, "t1": images["t2"], "t2": images["t1"]}
    with pytest.raises(DataError, match="the image given as t1 looks like t2.*--trust-names"):
        predictor.predict("case", exchanged)
    trusting = Predictor(run, "cpu", trust_names=True)
    assert trusting.predict("case", exchanged).modalities == MODALITIES
    words = ("predict", run, *words_of(exchanged), "-o", tmp_path / "mask.nii.gz")
    command(monkeypatch, *words, code=1)
    command(monkeypatch, *words, "--trust-names")  # what the message says is all that is needed


@pytest.mark.parametrize(
    "words",
    [[], ["--flair"], ["a", "b"], ["folder", "--flair", "a.nii.gz"], ["--flair", "a.nii.gz", "--modalities", "t1"]],
    ids=str,
)
def test_wrong_usage(run, words, tmp_path, monkeypatch):
    command(monkeypatch, "predict", run, *words, "-o", tmp_path / "out", code=2)


@pytest.fixture
def other_grid(scans, tmp_path):
    """Case 0, with its T1 in voxels of twice the size."""
    from nibabel.processing import resample_to_output

    images = files(scans, 0)
    coarse = resample_to_output(nib.load(images["t1"]), (10, 10, 10), order=1)
    nib.save(coarse, tmp_path / "coarse.nii.gz")
    return {**images, "t1": tmp_path / "coarse.nii.gz"}


def test_images_on_other_grids(run, predictor, other_grid, scans, tmp_path, monkeypatch, capsys):
    with pytest.raises(
        DataError, match=r"--resample-to MODALITY\):(?s:.*)differ in shape: 48 x 48 x 32 and 25 x 25 x 17"
    ):
        predictor.predict("case", other_grid)
    target = tmp_path / "mask.nii.gz"
    command(monkeypatch, "predict", run, *words_of(other_grid), "-o", target, "--resample-to", "t1ce", "--trust-names")
    mask, scan = nib.load(target), nib.load(files(scans, 0)["t1ce"])
    assert mask.shape == scan.shape
    assert np.array_equal(mask.affine, scan.affine)
    facts = json.loads((tmp_path / "mask.json").read_text())
    assert facts["resampled"] == ["t1"]
    assert facts["resampled_to"] == "t1ce"

    # Onto the coarse grid, the three others are brought, and the mask lies there.
    coarse = Predictor(run, "cpu", resample_to="t1", trust_names=True).predict("case", other_grid)
    told = [finding.describe() for finding in coarse.findings]
    assert "case: flair covers 87% of the grid of t1; the rest counts as its background, or as unlabelled" in told
    assert coarse.labels.shape == (25, 25, 17)
    assert coarse.resampled == ("flair", "t1ce", "t2")
    assert coarse.reference == other_grid["t1"]


def test_resampling_what_is_on_one_grid_changes_nothing(run, predictor, scans):
    images = files(scans, 1)
    asked = Predictor(run, "cpu", resample_to="t2").predict("case", images)
    assert asked.resampled == ()
    assert np.array_equal(asked.segmented.cropped, predictor.predict("case", images).segmented.cropped)


def test_resampling_that_cannot_be(run, other_grid, scans, tmp_path):
    with pytest.raises(UnknownName, match="no modality in this run 'adc'"):
        Predictor(run, "cpu", resample_to="adc")
    predictor = Predictor(run, "cpu", resample_to="t2")
    del other_grid["t2"]
    with pytest.raises(DataError, match="lie on different grids, and the case has no t2"):
        predictor.predict("case", other_grid)
    scan = nib.load(files(scans, 0)["t1"])
    affine = scan.affine.copy()
    affine[2, 3] += 32 * 5 * 0.6  # of its 160 mm along z, 40 % remain
    nib.save(nib.Nifti1Image(np.asarray(scan.dataobj), affine), tmp_path / "far.nii.gz")
    with pytest.raises(DataError, match="t1 covers 41% of the grid of t2, expected at least 50%"):
        predictor.predict("case", {**files(scans, 0), "t1": tmp_path / "far.nii.gz"})


def test_what_a_scan_will_cost_is_told_first(run, predictor, scans, capsys, tmp_path):
    predict_cases(predictor, {"a": files(scans, 2)}, {"a": tmp_path / "a.nii.gz"})
    first, second, known = capsys.readouterr().out.splitlines()
    assert known.startswith("a: flair, t1, t1ce and t2 hold voxels that the run was trained on, as BraTS2021_00002; ")
    scan = predictor.read("a", files(scans, 2))
    windows, memory = predictor.cost(scan)
    assert first.startswith(f"1 of 1: a, {windows} windows of 32 x 32 x 16 voxels, the process takes about ")
    assert second.startswith(f"  written: {tmp_path / 'a.nii.gz'}; WT ")
    assert Predictor(run, "cpu", flips=True).cost(scan)[0] == 8 * windows
    # What this process holds anyway, and the three probabilities; its peak is known only to the system.
    held = held_bytes(torch.device("cpu"))
    assert 0.5 * held + 3 * scan.image[0].nbytes < memory < 1.5 * held + 2e9


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 2), (1, 4)], ids=str)
def test_the_place_in_space_whichever_way_it_is_written(tmp_path, codes):
    """A file may give its place by qform, by sform, by both, or by the voxel size alone."""
    affine = np.array([[0, -2.0, 0, 5], [2, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])
    scan = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), affine)
    scan.header["descrip"] = b"Jane Doe"
    scan.set_qform(affine, codes[0])
    scan.set_sform(affine, codes[1])
    nib.save(scan, tmp_path / "scan.nii")
    scan = nib.load(tmp_path / "scan.nii")
    for volume in (np.ones((4, 5, 6), np.uint8), np.ones((4, 5, 6, 3), np.float32)):
        write_volume(tmp_path / "mask.nii.gz", volume, tmp_path / "scan.nii")
        mask = nib.load(tmp_path / "mask.nii.gz")
        np.testing.assert_array_equal(mask.affine, scan.affine)
        assert mask.header.get_zooms()[:3] == (2, 2, 3)
        assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == codes
        assert b"Jane" not in mask.to_bytes()


@pytest.fixture
def of_centimetres(scans, tmp_path):
    """Two cases: one without a stated orientation, and one whose sizes are a tenth of the true ones."""
    for number, factor, code in ((0, 1, 0), (1, 0.1, 1)):
        for path in (scans / f"BraTS2021_{number:05d}").iterdir():
            scan = nib.load(path)
            image = nib.Nifti1Image(np.asarray(scan.dataobj), scan.affine @ np.diag([factor, factor, factor, 1]))
            image.set_sform(image.affine, code)
            image.set_qform(image.affine, code)
            target = tmp_path / "odd" / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, target)
    return tmp_path / "odd"


def test_what_headers_say_is_told_once_or_asked_about_and_recorded(run, of_centimetres, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "predict", run, of_centimetres, "-o", tmp_path / "a", code=1)
    said = capsys.readouterr()
    assert said.out.count("state no orientation") == 1
    assert "span 24 x 24 x 16 mm with voxels of 0.5 x 0.5 x 0.5 mm; a scan is at least 30 mm long" in said.out
    assert "--accept implausible_size" in said.out
    assert not (tmp_path / "a" / "BraTS2021_00001.nii.gz").exists()
    command(monkeypatch, "predict", run, of_centimetres, "-o", tmp_path / "b", "--accept", "implausible_size")
    assert "accepted (implausible_size): BraTS2021_00001: flair, t1, t1ce and t2 span" in capsys.readouterr().out
    beside = [json.loads((tmp_path / "b" / f"BraTS2021_{k:05d}.json").read_text())["findings"] for k in range(2)]
    found = [{of["kind"]: of["accepted"] for of in findings} for findings in beside]
    # Voxels that state no orientation are taken to point to RAS, and this head then faces backwards.
    assert found == [
        {"unknown_orientation": False, "turned_case": False},
        {"implausible_size": True, "unusual_size": False},
    ]

    # Evaluation sees the same, and the run's own acceptance does not extend to other data.
    words = ("evaluate", run, "--data", of_centimetres, "--split", "all", "--out", tmp_path / "c")
    command(monkeypatch, *words, code=1)
    assert "data.accept=[implausible_size]" in capsys.readouterr().err
    command(monkeypatch, *words, "--set", "data.accept=[implausible_size]")
    found = json.loads((tmp_path / "c" / "findings.json").read_text())
    assert found["accepted"] == ["implausible_size"]
    kinds = {of["kind"] for of in found["findings"]}
    assert kinds == {"implausible_size", "unknown_orientation", "turned_case", "unusual_size"}
    with pytest.raises(UnknownName, match="no kind of finding that can be accepted 'unknown_orientation'"):
        Predictor(run, "cpu", accept=["unknown_orientation"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_weights_or_predictions_that_are_not_finite_never_become_a_mask(
    run, scans, tmp_path, monkeypatch, capsys, value
):
    import shutil

    broken = shutil.copytree(run, tmp_path / "run")
    weights = Predictor(broken, "cpu").run.folder.weights
    content = torch.load(weights, weights_only=True)
    name = next(name for name in content["model"] if name.endswith("bias"))
    content["model"][name][0] = value
    torch.save(content, weights)
    for words in (("predict", broken, scans, "-o", tmp_path / "masks"), ("evaluate", broken)):
        command(monkeypatch, *words, code=1)
        assert f"such as {name}, hold NaN or infinity; train anew" in capsys.readouterr().err
    assert not (tmp_path / "masks").exists()

    # Weights that are finite, and whose sums are not.
    predictor = Predictor(run, "cpu")
    for parameter in predictor.model.parameters():
        parameter.data.fill_(3e38)
    failed = predict_cases(predictor, {"a": files(scans, 0)}, {"a": tmp_path / "a.nii.gz"})
    assert "the prediction is NaN or infinite" in failed["a"]
    assert not list(tmp_path.glob("a.*"))
    content["model"] = {of: torch.full_like(value, 3e38) for of, value in content["model"].items()}
    torch.save(content, weights)
    command(monkeypatch, "evaluate", broken, code=1)
    assert re.search(r"NonFiniteLoss: BraTS2021_\d{5}: the prediction is NaN", capsys.readouterr().err)


def test_a_bundle_s_inferer_refuses_what_is_not_finite():
    from cggm_med.errors import NonFiniteLoss
    from cggm_med.models.inferer import ProbabilityInferer

    with pytest.raises(NonFiniteLoss, match="NaN or infinite"):
        ProbabilityInferer((8, 8, 8), overlap=0.5)(torch.zeros(1, 1, 9, 9, 9), lambda window: window / 0)


def test_no_output_replaces_an_image_or_somebody_s_file(run, scans, tmp_path, monkeypatch, capsys):
    import shutil

    case = shutil.copytree(scans / "BraTS2021_00000", tmp_path / "case")
    images = {m: case / f"BraTS2021_00000_{m}.nii.gz" for m in MODALITIES}
    sidecar = case / "BraTS2021_00000_seg.json"
    sidecar.write_text('{"Manufacturer": "X"}')  # as dcm2niix writes
    (case / "link.nii.gz").symlink_to(images["t2"])
    table = tmp_path / "mine" / "cohort.csv"
    table.parent.mkdir()
    table.write_text("patient,age\n")
    before = {path: path.read_bytes() for path in (*case.iterdir(), table)}
    monkeypatch.setattr(Predictor, "read", lambda *arguments: pytest.fail("work was done"))
    for out, said in [
        (images["flair"], "is read as well as written"),
        (case / "link.nii.gz", "is read as well as written"),
        (case / "BraTS2021_00000_seg.nii.gz", "2 outputs cannot be written:"),
        (images["t1"] / "mask.nii.gz", "cannot write to folder"),
    ]:
        command(monkeypatch, "predict", run, *words_of(images), "-o", out, code=1)
        assert said in capsys.readouterr().err
    command(monkeypatch, "predict", run, scans, "-o", table.parent, code=1)
    assert "this command did not write it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in (*case.iterdir(), table)} == before

    # Its own files are replaced, by the extras that they have beside them too.
    monkeypatch.undo()
    for _ in range(2):
        command(
            monkeypatch, "predict", run, "--t1", images["t1"], "-o", tmp_path / "m.nii.gz", "--extra", "uncertainty"
        )


def test_an_odd_case_stops_no_other_and_leaves_no_half(predictor, scans, tmp_path, monkeypatch):
    """Whatever a library raises, while a mask is made or written, becomes one line."""
    from cggm_med.inference import batch

    write = batch.write_labels

    def odd(path, prediction):
        if prediction.case == "b":
            raise RuntimeError("quaternion\nof 20 lines")
        write(path, prediction)

    cases = {name: files(scans, number) for number, name in enumerate("abc")}
    said: list[str] = []
    failed = predict_cases(
        predictor, cases, {name: tmp_path / f"{name}.nii" for name in cases}, write=odd, extras=["uncertainty"],
        say=said.append,
    )  # fmt: skip
    assert failed == {"b": "RuntimeError: quaternion (not foreseen: please report it)"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.json", "a.nii", "a_uncertainty.nii.gz", "c.json", "c.nii", "c_uncertainty.nii.gz",
    ]  # fmt: skip
