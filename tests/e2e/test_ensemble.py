"""An ensemble is used as a run is: its mask is that of the mean probability, wherever masks are made or scored."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import yaml
from helpers import processes
from helpers.command_line import command
from helpers.small_runs import filter_components, trained_run

from cggm_med.bundle.export import export_bundle
from cggm_med.errors import CheckpointError, ConfigError, OutputError
from cggm_med.inference.predictor import Predictor
from cggm_med.runs.ensemble import make_ensemble
from cggm_med.runs.finished_run import FinishedRun

MODALITIES = ("flair", "t1", "t1ce", "t2")


def files(scans, case):
    return {m: scans / case / f"{case}_{m}.nii.gz" for m in MODALITIES}


@pytest.fixture(scope="module")
def runs(phantom, cache, tmp_path_factory):
    """Two runs of one task and the same splits, with other networks and strategies."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {"train__epochs": "1", "task__component_filter": "validation"}
    return [
        trained_run(folder / "a", phantom, cache, **settings),
        trained_run(folder / "b", phantom, cache, model__channels="[4,4,8]", strategy__name="uniform", **settings),
    ]


@pytest.fixture(scope="module")
def ensemble(runs, tmp_path_factory):
    """Made of copies that are gone since then, and that remove other components each."""
    folder = tmp_path_factory.mktemp("ensemble")
    copies = [shutil.copytree(run, folder / run.name) for run in runs]
    filter_components(copies[0], {"WT": "largest", "ET": 1e9})
    filter_components(copies[1], {"WT": 30.0, "ET": 2e9, "TC": 10.0})
    make_ensemble(copies, folder / "ensemble")
    for copy in copies:
        shutil.rmtree(copy)
    return folder / "ensemble"


@pytest.fixture(scope="module")
def case(runs):
    return json.loads((runs[0] / "results.json").read_text())["cases"][0]["case"]


def test_the_probability_is_the_mean_and_the_mask_names_every_run(runs, ensemble, case, phantom, tmp_path, monkeypatch):
    each = [Predictor(run, "cpu").predict(case, files(phantom, case)).probability for run in runs]
    assert np.abs(each[0] - each[1]).max() > 0.01
    found = Predictor(ensemble, "cpu").predict(case, files(phantom, case))
    np.testing.assert_allclose(found.probability, np.mean(each, axis=0), atol=1e-5)
    words = [word for modality, file in files(phantom, case).items() for word in (f"--{modality}", file)]
    command(monkeypatch, "predict", ensemble, *words, "-o", tmp_path / "a.nii.gz")
    said = json.loads((tmp_path / "a.json").read_text())
    assert [(of["name"], of["strategy"], of["digest"]) for of in said["ensemble"]] == [
        (run.name, strategy, FinishedRun(run).digest) for run, strategy in zip(runs, ("cggm", "uniform"), strict=True)
    ]
    # Of what the runs remove, the ensemble removes what all of them do; here no ET is left.
    assert said["components"] == {"WT": 30.0, "ET": 1e9}
    mask = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert np.array_equal(mask, found.labels)
    assert set(np.unique(mask)) == {0, 1, 2} or set(np.unique(mask)) == {0, 1}


def test_it_is_scored_as_a_run(ensemble, case, tmp_path, monkeypatch):
    command(monkeypatch, "evaluate", ensemble)
    report = json.loads((ensemble / "evaluations" / "test" / "results.json").read_text())
    assert report["strategy"] == "mean of 2 runs (cggm, uniform)"
    assert {row["case"] for row in report["cases"]} == {case}
    assert "a (cggm, seed 0, highest validation Dice mean" in report["rules"]["ensemble"]
    assert "the mildest of what each run chose" in report["rules"]["component filter"]
    command(monkeypatch, "evaluate", ensemble, "--subsets", f"{'+'.join(MODALITIES)},t1", "--out", tmp_path / "subsets")
    rows = json.loads((tmp_path / "subsets" / "results.json").read_text())["cases"]
    whole = {row["region"]: row["dice"] for row in rows if row["subset"] == "+".join(MODALITIES)}
    assert whole == {row["region"]: row["dice"] for row in report["cases"]}


def test_its_bundle_gives_the_same_mask(ensemble, case, phantom, tmp_path):
    export_bundle(ensemble, tmp_path / "bundle")
    shutil.copytree(phantom / case, tmp_path / "scans" / case)
    options = ["--dataset_dir", str(tmp_path / "scans"), "--output_dir", str(tmp_path / "masks")]
    words = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", *options]
    done = processes.run(*words, cwd=tmp_path / "bundle")
    assert done.returncode == 0, done.stderr[-2000:]
    mask = np.asarray(nib.load(tmp_path / "masks" / f"{case}.nii.gz").dataobj)
    assert np.array_equal(mask, Predictor(ensemble, "cpu").predict(case, files(phantom, case)).labels)
    said = json.loads((tmp_path / "masks" / f"{case}.json").read_text())
    assert said["weights"] == FinishedRun(ensemble).digest
    assert [each["name"] for each in said["ensemble"]] == ["a", "b"]
    readme = (tmp_path / "bundle" / "docs" / "README.md").read_text()
    assert "the mean of the probabilities of these runs: a (cggm" in readme
    assert "b (uniform" in readme


def test_no_case_is_held_out_that_one_of_the_runs_has_seen(runs, tmp_path, monkeypatch, capsys):
    """Folds test on one another's training cases."""
    fold = shutil.copytree(runs[1], tmp_path / "fold")
    splits = json.loads((fold / "splits.json").read_text())
    for held, k in (("validation", 0), ("test", 1)):
        splits["train"][k], splits[held][0] = splits[held][0], splits["train"][k]
    (fold / "splits.json").write_text(json.dumps(splits))
    make_ensemble([runs[0], fold], tmp_path / "folds")
    command(monkeypatch, "evaluate", tmp_path / "folds", code=1)
    assert "held no case out" in capsys.readouterr().err


def test_what_cannot_be_averaged_is_refused_in_one_line(runs, ensemble, tmp_path):
    def changed(name, **keys):
        copy = shutil.copytree(runs[1], tmp_path / name)
        settings = yaml.safe_load((copy / "config.yaml").read_text())
        for key, value in keys.items():
            section, _, setting = key.partition("__")
            settings[section][setting] = value
        (copy / "config.yaml").write_text(yaml.safe_dump(settings))
        return copy

    others = [
        (changed("coarse", data__spacing=[9.0, 9.0, 9.0]), r"data.spacing: \[9.0, 9.0, 9.0\], there \[5.0, 5.0, 5.0\]"),
        (changed("two", task__modalities=["flair", "t2"]), r"modalities: \['flair', 't2'\], there \['flair', 't1', "),
        (changed("small", data__patch_size=[8, 8, 8]), r"data.patch_size: \[8, 8, 8\], there \[16, 16, 16\]"),
    ]
    other = shutil.copytree(runs[1], tmp_path / "labels")
    facts = json.loads((other / "facts.json").read_text())
    (other / "facts.json").write_text(json.dumps({**facts, "labels": "brats2023"}))
    others.append((other, r"labels of masks: brats2023 \(.*\), there brats2021 \(.*\)"))
    for run, said in others:
        with pytest.raises(ConfigError, match=rf"{run.name} cannot be averaged with .*: {said}[^\n]*; leave it out"):
            make_ensemble([runs[0], run], tmp_path / "out")
    with pytest.raises(ConfigError, match="expected at least two"):
        make_ensemble(runs[:1], tmp_path / "out")
    with pytest.raises(ConfigError, match="has the same weights as a; give each run once"):
        make_ensemble([runs[0], runs[0]], tmp_path / "out")
    with pytest.raises(ConfigError, match="is an ensemble itself"):
        make_ensemble([runs[0], ensemble], tmp_path / "out")
    (tmp_path / "small" / "results.json").unlink()
    with pytest.raises(CheckpointError, match="has not ended"):
        make_ensemble([runs[0], tmp_path / "small"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError):
        make_ensemble(runs, ensemble)


def test_what_only_a_training_has_is_refused(ensemble, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "train", "--resume", ensemble, code=1)
    assert "is an ensemble, which was not trained" in capsys.readouterr().err
    command(monkeypatch, "probe", ensemble, code=1)
    assert "probe its runs instead" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="is an ensemble, which was not trained"):
        _ = FinishedRun(ensemble).report
