"""From freshly written NIfTI through the command line to a Dice table, for every layout that users have."""

import json
import re

import nibabel as nib
import numpy as np
import pytest
import yaml
from helpers.command_line import command, set_options
from helpers.nifti import write
from helpers.small_runs import small_settings

from cggm_med.data.volumes.phantom.cases import PhantomCase, make_case

AFFINE = np.diag([-5.0, -5.0, 5.0, 1.0])
CASES, SHAPE = 6, (48, 48, 32)
TO_2023 = np.array([0, 1, 2, 0, 3], np.uint8)  # 1 NCR, 2 ED, 4 ET -> 1, 2, 3
TO_MSD = np.array([0, 2, 1, 0, 3], np.uint8)  # -> 1 oedema, 2 non-enhancing, 3 enhancing


def brats2021(folder, cases):
    for i, case in enumerate(cases):
        name = f"BraTS2021_{i:05d}"
        for kind, array in {**case.images, "seg": case.labels}.items():
            write(folder / name / f"{name}_{kind}.nii.gz", array, AFFINE)
    return folder


def brats2023(folder, cases):
    """Without case folders, with odd letter case and one uncompressed file, as copies in the wild."""
    for i, case in enumerate(cases):
        name = f"BraTS-GLI-{i:05d}-000"
        write(folder / f"{name}-t2f.nii.gz", case.images["flair"], AFFINE)
        write(folder / f"{name}-T1N.nii.gz", case.images["t1"], AFFINE)
        write(folder / f"{name}-t1c.nii", case.images["t1ce"], AFFINE)
        write(folder / f"{name}-t2W.nii.gz", case.images["t2"], AFFINE)
        write(folder / f"{name}-seg.nii.gz", TO_2023[case.labels], AFFINE)
    return folder


def decathlon(folder, cases):
    training = []
    for i, case in enumerate(cases):
        stack = np.stack([case.images[m] for m in ("flair", "t1", "t1ce", "t2")], axis=-1)
        write(folder / "imagesTr" / f"BRATS_{i:03d}.nii.gz", stack, AFFINE)
        write(folder / "labelsTr" / f"BRATS_{i:03d}.nii.gz", TO_MSD[case.labels], AFFINE)
        training.append({"image": f"./imagesTr/BRATS_{i:03d}.nii.gz", "label": f"./labelsTr/BRATS_{i:03d}.nii.gz"})
    content = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": training,
        "test": ["./imagesTs/BRATS_900.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def datalist(folder, cases):
    sections = {"training": [], "validation": [], "test": []}
    for i, case in enumerate(cases):
        entry = {"id": f"p{i}", "label": f"p{i}/truth.nii.gz"}
        write(folder / f"p{i}" / "truth.nii.gz", case.labels, AFFINE)
        for modality, array in case.images.items():
            write(folder / f"p{i}" / f"scan_{modality}.nii.gz", array, AFFINE)
            entry[modality] = f"p{i}/scan_{modality}.nii.gz"
        sections["training" if i < 4 else "validation" if i == 4 else "test"].append(entry)
    (folder / "list.json").write_text(json.dumps(sections))
    return folder / "list.json"


@pytest.fixture(scope="module")
def cases():
    return [make_case(7, index, SHAPE, 5.0) for index in range(CASES)]


def train(monkeypatch, data, cache, out, *words):
    settings = small_settings(data, cache, train__epochs="1")
    flags = set_options(settings)
    command(monkeypatch, "train", "--preset", "tiny", "--out", out, *flags, *words)


def dice_table(text):
    """Mean Dice by region from a Markdown or terminal table."""
    return {m[1]: float(m[2]) for m in re.finditer(r"^[|│] (\w+) +[|│] (\d\.\d{3})(?: ±)?", text, re.M)}


@pytest.mark.parametrize(
    ("write", "flags"),
    [
        (brats2021, []),
        (brats2023, []),
        (decathlon, []),
        (datalist, ["--set", "task.labels=brats2021"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_every_layout_gives_the_same_table(write, flags, cases, tmp_path, monkeypatch, capsys, cache):
    data = write(tmp_path / "data", cases)
    train(monkeypatch, data, cache, tmp_path / "run", *flags)
    printed = capsys.readouterr().out
    written = (tmp_path / "run" / "results.md").read_text()
    table = dice_table(written)
    assert set(table) >= {"WT", "TC", "ET", "mean"}
    assert {region: table[region] for region in ("WT", "TC", "ET")}.items() <= dice_table(printed).items()

    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for score in results["cases"]:
        index = int(re.sub(r"\D", "", score["case"].removeprefix("BraTS2021").removesuffix("-000")))
        labels = {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}[score["region"]]
        ml = float(np.isin(cases[index].labels, labels).sum()) * 0.125
        assert score["target_ml"] == pytest.approx(ml)  # the right patient's right label, whatever its number


def test_the_run_folder_holds_what_the_quickstart_says(cases, tmp_path, monkeypatch, cache):
    run = tmp_path / "run"
    train(monkeypatch, datalist(tmp_path / "data", cases), cache, run, "--set", "task.labels=brats2021")
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert files == {
        "config.yaml", "splits.json", "groups.json", "data.json", "facts.json", "findings.json",
        "coverage.json",
        "metrics.jsonl", "log.txt", "results.json", "results.md", "cost.json", "gradients.jsonl",
        "checkpoints/last.pt", "checkpoints/best.pt",
        "figures/learning.png", "figures/modalities.png", "figures/p5.png",
    }  # fmt: skip
    assert json.loads((run / "splits.json").read_text()) == {
        "train": ["p0", "p1", "p2", "p3"], "validation": ["p4"], "test": ["p5"]
    }  # fmt: skip
    assert json.loads((run / "groups.json").read_text()) == {f"p{k}": f"p{k}" for k in range(6)}
    log = (run / "log.txt").read_text()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in log.splitlines())
    assert [part in log for part in ("6 cases", "training brats2021 with cggm", "step 4/4", "finished")] == [True] * 4
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = records[0]
    for key in ("score", "factor", "gradient_norm", "cosine"):
        assert set(first[key]) == {"flair", "t1", "t1ce", "t2"}
    assert {"fused_score", "sign_flips", "clipped_steps", "skipped_steps"} <= set(first)
    assert records[-1]["kind"] == "validation"
    head_scores = json.loads((run / "results.json").read_text())["heads"]
    assert {score["modality"] for score in head_scores} == {"flair", "t1", "t1ce", "t2"}


def test_any_subset_of_modalities_and_joint_training(cases, tmp_path, monkeypatch, cache):
    data = brats2021(tmp_path / "data", cases)
    subset = ["--set", "task.modalities=[t1ce,flair]", "--strategy", "joint"]
    train(monkeypatch, data, cache, tmp_path / "run", *subset)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["provenance"]["modalities"] == "t1ce, flair"
    assert {score["modality"] for score in results["heads"]} == {"flair", "t1ce"}
    covered = json.loads((tmp_path / "run" / "coverage.json").read_text())
    assert covered["modulates"] is False
    assert list(covered["modalities"]) == ["t1ce", "flair"]


def test_joint_training_without_heads_has_none_in_its_table(cases, tmp_path, monkeypatch, cache):
    data = brats2021(tmp_path / "data", cases)
    bare = ["--strategy", "joint", "--set", "strategy.heads=false"]
    train(monkeypatch, data, cache, tmp_path / "run", *bare)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["heads"] == []


def test_evaluate_repeats_the_table_and_scores_other_data(cases, tmp_path, monkeypatch, cache, capsys):
    run = tmp_path / "run"
    train(monkeypatch, brats2021(tmp_path / "data", cases), cache, run)
    results = json.loads((run / "results.json").read_text())

    command(monkeypatch, "evaluate", run)
    again = json.loads((run / "evaluations" / "test" / "results.json").read_text())
    assert again["cases"] == results["cases"]
    assert again["heads"] == results["heads"]

    others = [make_case(8, index, SHAPE, 5.0) for index in range(2)]
    command(monkeypatch, "evaluate", run, "--data", brats2023(tmp_path / "other", others), "--out", tmp_path / "out")
    foreign = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [s["case"] for s in foreign["cases"]][::3] == ["BraTS-GLI-00000-000", "BraTS-GLI-00001-000"]
    assert foreign["split"] == "all"
    command(monkeypatch, "evaluate", run, "--out", tmp_path / "out", code=1)
    assert "out already exists; choose another folder with --out" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == foreign


def test_other_scans_are_brought_to_the_voxel_size_of_the_training(cases, tmp_path, monkeypatch, cache):
    run = tmp_path / "run"
    train(monkeypatch, brats2021(tmp_path / "data", cases), cache, run)
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["spacing"] == [5, 5, 5]
    monkeypatch.setitem(globals(), "AFFINE", np.diag([-2.5, -2.5, 2.5, 1.0]))
    fine = [np.kron(array, np.ones((2, 2, 2), array.dtype)) for array in (*cases[0].images.values(), cases[0].labels)]
    case = PhantomCase(dict(zip(cases[0].images, fine, strict=False)), fine[-1], cases[0].tissue)
    words = ("--data", brats2023(tmp_path / "fine", [case]), "--split", "all", "--out", tmp_path / "out")
    command(monkeypatch, "evaluate", run, *words)
    newest = max((cache / "preprocessed").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    facts = json.loads((newest / "case.json").read_text())
    np.testing.assert_allclose(nib.affines.voxel_sizes(np.array(facts["prepared_affine"])), 5)
    np.testing.assert_allclose(nib.affines.voxel_sizes(np.array(facts["affine"])), 2.5)
    score = json.loads((tmp_path / "out" / "results.json").read_text())["cases"][2]
    assert score["target_ml"] == pytest.approx((cases[0].labels == 4).sum() * 0.125)


def test_a_trained_case_is_known_again_however_it_is_prepared(cases, tmp_path, monkeypatch, cache, capsys):
    run, data = tmp_path / "run", brats2021(tmp_path / "data", cases)
    train(monkeypatch, data, cache, run)
    for setting in ("data.spacing=[6,6,6]", "task.labels=brats2013"):
        command(monkeypatch, "evaluate", run, "--data", data, "--set", setting, code=1)
        assert "were used to train this run" in capsys.readouterr().err
    for path in data.rglob("*.nii.gz"):  # saved anew, as other numbers of the same size
        scan = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(scan.dataobj).astype(np.float64), scan.affine), path)
        path.rename(path.with_name(path.name.replace("BraTS2021", "New")))
    command(monkeypatch, "evaluate", run, "--data", data, code=1)
    said = capsys.readouterr()
    assert "were used to train this run" in said.err
    assert "hold voxels that the run was trained on, as BraTS2021_0000" in said.out
    command(monkeypatch, "predict", run, data, "-o", tmp_path / "masks")
    assert "hold voxels that the run was trained on, as BraTS2021_0000" in capsys.readouterr().out


def test_deep_supervision_trains(cases, tmp_path, monkeypatch, cache):
    data = brats2021(tmp_path / "data", cases)
    deep = ["--set", "model.deep_supervision=true", "--set", "model.channels=[4,4,8]"]
    train(monkeypatch, data, cache, tmp_path / "run", *deep)
    assert (tmp_path / "run" / "results.md").exists()


@pytest.mark.parametrize("pipeline", ["brats2021_cggm", "brats2021_joint", "brats2013_cggm"])
def test_every_shipped_pipeline_runs(pipeline, cases, tmp_path, monkeypatch, cache):
    from pathlib import Path

    config = Path(__file__).parents[2] / "pipelines" / pipeline / "configs" / "settings.yaml"
    data = brats2021(tmp_path / "data", cases)
    small = small_settings(data, cache, train__epochs="1", train__steps_per_epoch="2")
    flags = set_options([*small, "data.spacing=[5,5,5]"])
    command(monkeypatch, "train", "--config", config, "--out", tmp_path / "run", *flags)
    assert (tmp_path / "run" / "results.md").exists()


def test_all_pipelines_are_tested():
    from pathlib import Path

    names = {path.name for path in (Path(__file__).parents[2] / "pipelines").iterdir() if path.is_dir()}
    marks = [mark for mark in test_every_shipped_pipeline_runs.pytestmark if mark.name == "parametrize"]
    assert names == {name for mark in marks for name in mark.args[1]}
