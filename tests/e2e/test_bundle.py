"""An exported bundle: runs where cggm_med is not, gives the masks of predict bit for bit, is read by MONAI's tools."""

import ast
import csv
import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import warnings
from dataclasses import replace
from pathlib import Path

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from helpers import processes
from helpers.command_line import command
from helpers.small_runs import filter_components, trained_run
from jinja2 import UndefinedError
from monai.data import MetaTensor

import cggm_med
from cggm_med.bundle.configs import TEMPLATE, fill_template
from cggm_med.bundle.export import MODULES, SCHEMA_FILE, export_bundle
from cggm_med.bundle.run_facts import run_facts
from cggm_med.bundle.transforms import RECORD, DescribedMaskWriter
from cggm_med.data.checks.finding import lines
from cggm_med.data.volumes.io import write_volume
from cggm_med.data.volumes.monai_reader import VolumeReader
from cggm_med.errors import CheckpointError, ConfigError, DataError, OutputError, UnknownName
from cggm_med.files import digest_of
from cggm_med.inference.predictor import Predictor
from cggm_med.inference.side_car import expected_record, read_side_car, side_car
from cggm_med.models.fusion import ResidualFusion
from cggm_med.results.rank_correlation import RankCorrelation
from cggm_med.runs.expectations import Expectations, RegionExpectation, SubsetExpectation
from cggm_med.runs.finished_run import FinishedRun

MODALITIES = ("flair", "t1", "t1ce", "t2")
EXCHANGED = "exchanged_modalities"
CONFIG = ["--config_file", "configs/inference.json", "--meta_file", "configs/metadata.json"]


@pytest.fixture(scope="module")
def scans(phantom):
    return phantom


@pytest.fixture(scope="module")
def run(phantom, cache, tmp_path_factory):
    run = trained_run(
        tmp_path_factory.mktemp("run") / "run",
        phantom,
        cache,
        train__epochs="2",
        train__steps_per_epoch="20",
        model__fusion="residual",  # the network with most parts
        task__component_filter="validation",
    )
    filter_components(run, {"WT": "largest", "ET": 2000.0})
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "evaluate", run, "--out", run / "filtered")
    shutil.copy(run / "filtered" / "results.json", run / "results.json")
    return run


@pytest.fixture(scope="module")
def others(scans, tmp_path_factory):
    """Cases named as in BraTS: as they are; turned axes and 4 mm voxels; shifted background; two modalities."""
    folder = tmp_path_factory.mktemp("others")
    for name, change in (("plain", lambda x: x), ("turned", turned), ("shifted", shifted)):
        (folder / name).mkdir()
        for modality in MODALITIES:
            scan = nib.load(scans / "BraTS2021_00000" / f"BraTS2021_00000_{modality}.nii.gz")
            nib.save(change(scan), folder / name / f"{name}_{modality}.nii.gz")
    (folder / "lacking").mkdir()
    for modality in ("flair", "t2"):
        shutil.copy(folder / "turned" / f"turned_{modality}.nii.gz", folder / "lacking" / f"lacking_{modality}.nii.gz")
    return folder


def turned(scan):
    affine = scan.affine.copy()
    affine[:3, :3] *= 0.8
    data = np.asarray(scan.dataobj)
    to_other_axes = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    return nib.Nifti1Image(data.transpose(1, 2, 0), affine @ to_other_axes)


def shifted(scan):
    return nib.Nifti1Image(np.asarray(scan.dataobj, dtype=np.float32) - 3.5, scan.affine)


def files(folder, case):
    return {m: folder / case / f"{case}_{m}.nii.gz" for m in MODALITIES}


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "brats_segmentation"
    export_bundle(run, folder)
    return folder


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory):
    """A virtual environment with everything that is installed here but cggm_med and its plug-ins.

    Installing torch and MONAI anew would take minutes and give the same files. Instead every installed package is
    linked into the new environment, one by one, so that there is no path by which cggm_med could be found; that it is
    not found is checked by the bundle's own process.
    """
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.EnvBuilder(with_pip=False).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for home in {Path(module.__file__).parents[1] for module in (torch, monai, nib)}:
        for entry in home.iterdir():
            target = packages / entry.name
            # A .pth file may lead to folders elsewhere, such as that of an editable install.
            if "cggm" not in entry.name.lower() and entry.suffix != ".pth" and not target.exists():
                target.symlink_to(entry)
    return folder / "bin" / "python"


def in_clean_python(python, bundle, *words):
    """Standard output of a process that starts in the bundle's folder and knows no other."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONNOUSERSITE": "1"}
    done = subprocess.run([python, *map(str, words)], cwd=bundle, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.slow
def test_without_the_package_it_gives_the_masks_of_predict(bundle, run, others, clean_python, tmp_path):
    arguments = [*CONFIG, "--dataset_dir", others, "--output_dir", tmp_path, "--device", "cpu"]
    done = in_clean_python(clean_python, bundle, "-m", "monai.bundle", "run", *arguments, "--accept", EXCHANGED)
    predictor, told = Predictor(run, "cpu", trust_names=True), []
    masks = {path.name: nib.load(path) for path in tmp_path.glob("*.nii.gz")}
    assert set(masks) == {"plain.nii.gz", "turned.nii.gz", "shifted.nii.gz", "lacking.nii.gz"}
    for name, mask in masks.items():
        images = {m: file for m, file in files(others, name.removesuffix(".nii.gz")).items() if file.exists()}
        case = name.removesuffix(".nii.gz")
        prediction = predictor.predict(case, images)
        # Bundles name no training case.
        findings = [replace(of, seen=re.sub(r", as BraTS\w+$", "", of.seen)) for of in prediction.findings]
        told += lines(findings)
        assert 0 < (prediction.labels > 0).mean() < 0.9
        np.testing.assert_array_equal(np.asarray(mask.dataobj), prediction.labels)
        assert mask.get_data_dtype() == np.uint8
        np.testing.assert_allclose(mask.affine, nib.load(images["flair"]).affine, atol=1e-5)
        said, seconds = read_side_car(tmp_path / name), {"reading": 1, "segmenting": 1}
        by_predict = side_car(replace(prediction, findings=findings), predictor, seconds)
        assert list(said) == list(by_predict)
        assert {*said["seconds"]} == {*seconds}
        assert by_predict["measured_on"].startswith(said["measured_on"])  # and says how to measure it
        differing = {key for key in said if said[key] != by_predict[key]}
        assert differing <= {"date", "seconds", "measured_on"}, differing
    # MONAI says that a configuration is code; whatever else it warned of would be ours to fix.
    warned = [line for line in done.stderr.splitlines() if "Warning" in line]
    known = ("GHSA-873f-pvrv-4x83", "NvImgCodec", *told)
    assert all(any(of in line for of in known) for line in warned), warned


@pytest.fixture(scope="module")
def checked(bundle, others, scans, clean_python, tmp_path_factory):
    """The folder with what one process of the clean Python found."""
    folder, images = tmp_path_factory.mktemp("checked"), files(others, "turned")
    scan = nib.load(images["flair"])
    stack = np.stack([np.asarray(nib.load(file).dataobj) for file in images.values()], axis=-1)
    (folder / "scans").mkdir()
    four = folder / "scans" / "turned.nii.gz"
    nib.save(nib.Nifti1Image(stack, scan.affine), four)
    listing = {"modality": dict(enumerate(["FLAIR", "T1w", "t1gd", "T2w"])), "training": [{"image": four.name}]}
    (folder / "scans" / "dataset.json").write_text(json.dumps(listing))
    checks = Path(__file__).parents[1] / "helpers" / "bundle_checks.py"
    in_clean_python(clean_python, bundle, checks, SCHEMA_FILE, four, scans, folder)
    return folder


@pytest.mark.slow
def test_what_tools_do_with_it(checked, run, others):
    """MONAI's own commands, and the way in which MONAI Label and MONAI Deploy take a bundle apart."""
    found = json.loads((checked / "findings.json").read_text())
    assert found["cggm_med"] is False
    assert found["missing"] == []
    assert found["ts"] == found["ckpt_export"] == [0.0, 0.0, 0.0]
    assert found["onnx"] < 1e-4
    assert found["labels"] == {"background": 0, "necrotic core": 1, "oedema": 2, "enhancing tumour": 4}
    expected = Predictor(run, "cpu", trust_names=True).predict("case", files(others, "turned")).labels
    for reader in ("label", "deploy"):
        np.testing.assert_array_equal(np.load(checked / f"{reader}.npy")[0], expected)


@pytest.mark.slow
def test_it_scores_as_the_run_was_scored(checked, run):
    with (checked / "scores" / "val_mean_dice_raw.csv").open() as table:
        rows = {Path(row["filename"]).parent.name: row for row in csv.DictReader(table)}
    assert len(rows) == 6
    for scored in json.loads((run / "results.json").read_text())["cases"]:
        column = f"class{['WT', 'TC', 'ET'].index(scored['region'])}"
        assert float(rows[scored["case"]][column]) == pytest.approx(scored["dice"], abs=1e-6)


def test_the_source_is_small_and_closed(bundle):
    """What is copied imports itself, Python's library and what the metadata list; nothing names this package."""
    sources = sorted((bundle / "scripts").rglob("*.py"))
    assert len(sources) == len(MODULES) + 9 <= 70
    modules = {".".join(path.relative_to(bundle).with_suffix("").parts).removesuffix(".__init__") for path in sources}
    # SimpleITK only when a NRRD file is opened, see the next test.
    allowed = {"monai", "torch", "numpy", "nibabel", "SimpleITK", "scipy", *sys.stdlib_module_names}
    for path in sources:
        text = path.read_text()
        assert "cggm_med" not in text
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name in modules or (name.split(".")[0] in allowed and not name.startswith("scripts")), name


def test_without_simpleitk_it_reads_all_but_nrrd_and_says_what_that_takes(bundle, others, tmp_path):
    scan = nib.load(others / "plain" / "plain_flair.nii.gz")
    for ending in (".mha", ".nrrd"):
        write_volume(tmp_path / f"scan{ending}", np.asarray(scan.dataobj), scan.affine)
    nib.save(nib.MGHImage(np.asarray(scan.dataobj, np.float32), scan.affine), tmp_path / "scan.mgz")
    check = """
import sys
for name in ("SimpleITK", "scipy"):
    sys.modules[name] = None  # as if it were not installed
import numpy as np
from scripts.data.volumes.monai_reader import VolumeReader
volumes = [VolumeReader().get_data(VolumeReader().read(file))[0] for file in sys.argv[1:4]]
assert all(np.array_equal(volume, volumes[0]) for volume in volumes)
VolumeReader().get_data(VolumeReader().read(sys.argv[4]))
"""
    files = [others / "plain" / "plain_flair.nii.gz", *(tmp_path / f"scan.{end}" for end in ("mha", "mgz", "nrrd"))]
    done = processes.run("-c", check, *map(str, files), cwd=bundle)
    (said,) = done.stderr.splitlines()[-1:]
    assert said.endswith(f"DataError: {tmp_path / 'scan.nrrd'} cannot be read without SimpleITK: pip install SimpleITK")


def test_images_on_different_grids_are_refused(others):
    reader, folders = VolumeReader(), (others / "plain" / "plain_t1.nii.gz", others / "turned" / "turned_t1.nii.gz")
    with pytest.raises(DataError, match=r"differ in shape: .*; resample the images of a case to one grid first"):
        reader.get_data(reader.read(folders))


def test_the_source_is_that_of_the_package(bundle):
    home = Path(cggm_med.__file__).parent
    for module in MODULES:
        file = f"{module.replace('.', '/')}.py"
        own, copied = (home / file).read_text(), (bundle / "scripts" / file).read_text()
        assert copied.replace("scripts.", "cggm_med.") == own


def test_it_has_what_the_model_zoo_label_and_deploy_read(bundle):
    present = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert present >= {
        "LICENSE",
        "configs/metadata.json",
        "configs/inference.json",
        "configs/evaluate.json",
        "configs/logging.conf",
        "models/model.pt",
        "models/model.ts",
        "docs/README.md",
        "docs/data_license.txt",
    }
    inference = json.loads((bundle / "configs" / "inference.json").read_text())
    keys = {"bundle_root", "dataset_dir", "output_dir", "device", "network_def", "preprocessing", "postprocessing"}
    assert set(inference) >= keys | {"dataset", "inferer", "evaluator", "handlers"}
    steps = [step["_target_"] for key in ("preprocessing", "postprocessing") for step in inference[key]["transforms"]]
    assert steps[0] == "LoadImaged"
    assert steps[-1] == "SaveImaged"
    assert "_meta_" not in json.dumps(inference)  # Label reads this file alone
    meta = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert meta["version"] in meta["changelog"]
    assert meta["schema"].startswith("https://github.com/Project-MONAI/")
    assert {"nibabel", "pytorch-ignite"} <= set(meta["required_packages_version"])
    form = meta["network_data_format"]
    assert list(form["inputs"]["image"]["channel_def"].values()) == list(MODALITIES)
    assert form["outputs"]["pred"]["num_channels"] == 3
    assert (bundle / "LICENSE").read_text() == (Path(__file__).parents[2] / "LICENSE").read_text()


def test_the_metadata_say_what_the_run_says(bundle, run):
    meta = json.loads((bundle / "configs" / "metadata.json").read_text())
    results = json.loads((run / "results.json").read_text())
    assert meta["eval_metrics"] == results["headline"]
    assert meta["evaluation"]["cases"] == 1
    assert meta["spacing_mm"] == [5, 5, 5]
    assert "not a medical device" in meta["intended_use"].lower()
    readme = (bundle / "docs" / "README.md").read_text()
    assert "| 4 | enhancing tumour |" in readme
    assert f"| Dice WT | {results['headline']['Dice WT']:.3f} |" in readme
    everything = "".join(path.read_text() for path in bundle.rglob("*") if path.suffix in (".json", ".md", ".txt"))
    assert str(run.parent) not in everything
    assert "$" not in readme


@pytest.fixture
def transforms(bundle, monkeypatch):
    """The bundle's own source of the checks, in this process."""
    monkeypatch.syspath_prepend(str(bundle))
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        monkeypatch.delitem(sys.modules, name)
    return importlib.import_module("scripts.bundle.transforms")


def loaded(scans, order):
    """What MONAI's loader makes of a case whose images stand under other names."""
    images = [scans / "BraTS2021_00000" / f"BraTS2021_00000_{modality}.nii.gz" for modality in order]
    reader = VolumeReader()
    volumes, meta = reader.get_data(reader.read(images))
    meta |= {"filename_or_obj": str(images[0])}
    return {"image": MetaTensor(torch.from_numpy(volumes.astype(np.float32)), meta=meta), "case": "a"}


def refusal(call, *words):
    """The line of an error, whichever of the two packages it is of."""
    with pytest.raises(Exception, match="looks like") as error:
        call(*words)
    return str(error.value)


def test_exchanged_modalities_are_refused_in_the_words_of_predict(transforms, run, scans, tmp_path):
    order = ("t1", "t2", "t1ce", "flair")
    facts, item = transforms.read_run(), loaded(scans, order)
    images = {m: files(scans, "BraTS2021_00000")[o] for m, o in zip(MODALITIES, order, strict=True)}
    check = functools.partial(transforms.PrepareCheckedScand, "image", MODALITIES, facts, (5, 5, 5))
    by_predict = refusal(Predictor(run, "cpu").predict, "a", images)
    assert refusal(check(), item) == by_predict.replace("--trust-names", f"--accept {EXCHANGED}")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        image = check(accept=EXCHANGED)(item)["image"]
    told = "\n".join(str(warning.message) for warning in warned)
    assert f"accepted ({EXCHANGED}): a: the image given as flair looks like" in told
    assert (
        "a: flair, t1, t1ce and t2 hold voxels that the run was trained on; what is" in told
    )  # as which case, it hides
    said = json.loads(image.meta["scan"])
    assert said["trust_names"] is True
    assert [finding["kind"] for finding in said["findings"] if finding["accepted"]] == [EXCHANGED]
    with pytest.raises(Exception, match="no kind of finding that can be accepted 'exchange'"):
        check(accept=["exchange"])


def test_what_was_measured_stands_beside_the_mask_of_exactly_these_modalities(run, scans, tmp_path):
    """By hand: what ``calibrate`` measured of a subset; and of another one, that nothing was."""
    copy = shutil.copytree(run, tmp_path / "run")
    write_expectations(copy, {"flair+t2": 0.7, "flair+adc": 0.1})
    predictor = Predictor(copy, "cpu")
    facts = run_facts(predictor, ["t2", "flair"])
    assert list(facts["expected"]) == ["flair+t2"]
    assert facts["expected"]["flair+t2"]["expected_dice"]["WT"] == {"mean": 0.7, "sd": 0.1, "cases": 3}
    assert facts["expected_otherwise"] == expected_record(*predictor.expectation(["t1"]))
    assert "exactly these modalities" in facts["expected_otherwise"]["measured_on"]
    assert "BraTS2021" not in json.dumps(facts)  # no case, training or other


def write_expectations(run, dice):
    """As ``calibrate`` would have measured them, by subset."""
    finished, found = FinishedRun(run), {}
    for name, mean in dice.items():
        region = RegionExpectation(3, mean, 0.1, 1.5, None, None, RankCorrelation(3))
        found[name] = SubsetExpectation(3, dict.fromkeys(("WT", "TC", "ET"), region), region)
    Expectations(finished.digest, finished.postprocessing, "validation", 3, found, []).write(finished.folder)


def test_other_weights_are_named_and_nothing_is_expected_of_them(bundle, transforms):
    assert transforms.read_run()["weights"] == json.loads((bundle / "models" / "run.json").read_text())["weights"]
    weights = bundle / "models" / "model.pt"
    exported = weights.read_bytes()
    try:
        weights.write_bytes(exported + b"0")
        facts = transforms.read_run()
    finally:
        weights.write_bytes(exported)
    assert facts["weights"] == digest_of(exported + b"0")
    assert facts["expected"] == {}
    assert facts["expected_otherwise"]["measured_on"] == "nothing: the weights are not those that were exported"


def test_a_mask_that_cannot_be_written_leaves_nothing_beside_it(tmp_path, monkeypatch):
    writer = DescribedMaskWriter(output_dtype=np.uint8)
    writer.set_data_array(np.zeros((2, 2, 2)), channel_dim=None)
    writer.set_metadata({"affine": np.eye(4), RECORD: '{"case": "a"}'}, resample=False)
    writer.write(tmp_path / "a.nii.gz")
    assert json.loads((tmp_path / "a.json").read_text()) == {"case": "a"}
    assert nib.load(tmp_path / "a.nii.gz").shape == (2, 2, 2)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever nibabel says of such a name
        writer.write(tmp_path / "b.unknown")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.nii.gz"]


def test_weights_are_a_state_dictionary(bundle):
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())


@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
def test_some_modalities_alone(run, tmp_path):
    """A bundle of two modalities, in an order of its own, says what predict says of these two, with fewer weights."""
    folder = tmp_path / "two"
    export_bundle(run, folder, ["t1ce", "flair"])
    meta = json.loads((folder / "configs" / "metadata.json").read_text())
    assert meta["network_data_format"]["inputs"]["image"]["channel_def"] == {"0": "t1ce", "1": "flair"}
    assert meta["eval_metrics"] == {}
    inference = json.loads((folder / "configs" / "inference.json").read_text())
    assert inference["modalities"] == inference["network_def"]["modalities"] == ["t1ce", "flair"]
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert not any(".t1." in name or ".t2." in name for name in weights)
    predictor = Predictor(run, "cpu", trust_names=True)
    image = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        expected = predictor.model({"flair": image[:, 1:], "t1ce": image[:, :1]})
        assert torch.equal(torch.jit.load(folder / "models" / "model.ts")(image), expected)


def test_bad_requests(run, bundle, tmp_path, monkeypatch, capsys):
    with pytest.raises(OutputError, match="already exists; choose another folder with -o"):
        export_bundle(run, bundle)
    with pytest.raises(CheckpointError, match="not a run folder"):
        export_bundle(tmp_path, tmp_path / "out")
    with pytest.raises(UnknownName, match="no modality in this run 'adc'"):
        export_bundle(run, tmp_path / "out", ["flair", "adc"])
    with pytest.raises(ConfigError, match="expected each once"):
        export_bundle(run, tmp_path / "out", ["flair", "flair"])
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="which has learned what the absence of a"):
        patch.setattr("cggm_med.bundle.export.PresenceFusion", ResidualFusion)
        export_bundle(run, tmp_path / "out", ["flair"])
    command(monkeypatch, "bundle", "export", run, "-o", tmp_path / "out", "--modalities", "flair,adc", code=1)
    assert "no modality in this run 'adc'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_has_not_ended_is_refused(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "results.json").unlink()
    with pytest.raises(CheckpointError, match="has not ended; go on with: cggm-med train --resume"):
        export_bundle(copy, tmp_path / "out")
    (copy / "results.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"results\.json is damaged"):
        export_bundle(copy, tmp_path / "out")
    # A run without held-out cases has no scores, and says so.
    splits = json.loads((copy / "splits.json").read_text())
    (copy / "results.json").unlink()
    (copy / "splits.json").write_text(json.dumps({**splits, "validation": [], "test": []}))
    export_bundle(copy, tmp_path / "out")
    meta = json.loads((tmp_path / "out" / "configs" / "metadata.json").read_text())
    assert meta["evaluation"] == "the run held no case out; nothing was measured"


def test_the_command(run, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "bundle", "export", run, "-o", tmp_path / "out")
    assert "python -m monai.bundle run --config_file configs/inference.json" in capsys.readouterr().out
    assert (tmp_path / "out" / "models" / "model.ts").exists()


def test_a_template_without_a_value_is_an_error():
    with pytest.raises(UndefinedError, match="'meta' is undefined"):
        fill_template("docs/data_license.txt")


def test_templates_are_whole():
    assert (TEMPLATE / "LICENSE").read_text() == (Path(__file__).parents[2] / "LICENSE").read_text()
