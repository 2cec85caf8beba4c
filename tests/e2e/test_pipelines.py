"""The shipped bundles: their files are what the project says, and MONAI runs them as they are."""

import json
import shutil
from pathlib import Path

import jsonschema
import nibabel as nib
import numpy as np
import pytest
import yaml
from helpers import processes

from cggm_med import registry
from cggm_med.bundle.configs import TEMPLATE, evaluate_config, inference_config, metadata, train_config
from cggm_med.bundle.export import SCHEMA_FILE
from cggm_med.bundle.training import EngineEvaluator, Scans
from cggm_med.config import read_file
from cggm_med.errors import ConfigError
from cggm_med.inference.predictor import Predictor
from cggm_med.runs.settings import make_config

PIPELINES = Path(__file__).parents[2] / "pipelines"
NAMES = ("brats2021_cggm", "brats2021_joint")
META = ["--meta_file", "configs/metadata.json", "--device", "cpu"]
SMALL = ["--network_def#model#channels", "[4,8]"]


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_what_the_project_says(name):
    """Made by ``bundle.configs`` once, and to be made again when that changes."""
    configs = PIPELINES / name / "configs"
    config = make_config("brats2021", [read_file(configs / "settings.yaml")])
    task = registry.load(registry.TASKS, "brats2021")(config)
    model = task.model()
    inference = inference_config(task, [(model, config)], model.modalities)
    expected = {
        "train.yaml": train_config(model, config),
        "inference.yaml": inference,
        "evaluate.yaml": evaluate_config(inference, "cggm_med"),
    }
    for file, content in expected.items():
        assert yaml.safe_load((configs / file).read_text()) == content, file
    assert config.strategy.name == name.split("_")[1]

    meta = json.loads((configs / "metadata.json").read_text())
    made = metadata(
        task,
        [model],
        task.modalities,
        task.conventions["brats2021"],
        name=name,
        spacing=(1, 1, 1),
        change="settings of the project, without weights",
        evaluation="no weights, so nothing was measured",
    )
    versions = {key for key in made if key.endswith("_version")}  # of what is installed, whatever that is
    assert {k: v for k, v in meta.items() if k not in versions} == {k: v for k, v in made.items() if k not in versions}
    jsonschema.validate(meta, json.loads(SCHEMA_FILE.read_text()))


@pytest.mark.parametrize(
    ("kinds", "modalities", "modality", "form", "intensities"),
    [
        (["mri", "mri"], ["MR", "MR"], "MR", "magnitude", "2 channels: a, b z-scored inside the body, 0 outside"),
        (["ct"], ["CT"], "CT", "hounsfield", "1 channel: a clipped to percentiles of the training cases, z-scored by"),
        (["pet", "ct"], ["PT", "CT"], "PT, CT", "magnitude", "2 channels: a divided by one number for all cases; b c"),
        (["mri", "map"], ["MR", "map"], "MR, map", "magnitude", "2 channels: a z-scored inside the body, 0 outside; b"),
    ],
)
def test_metadata_say_the_declared_kinds_and_the_names_and_colours_of_regions(
    kinds, modalities, modality, form, intensities
):
    declared = {
        "modalities": {name: {"kind": kind} for name, kind in zip("ab", kinds, strict=False)},
        "labels": {"1": "liver", "7": "lesion"},
        "colours": {"lesion": "#123456"},
    }
    names = list(declared["modalities"])
    layer = {"task": {"declaration": declared, "modalities": names}, "model": {"channels": [4, 8]}}
    task = registry.load(registry.TASKS, "segmentation")(make_config("segmentation", [layer]))
    said = {"name": "x", "spacing": (1, 1, 1), "change": "made", "evaluation": "none"}
    meta = metadata(task, [task.model()], names, next(iter(task.conventions.values())), **said)
    jsonschema.validate(meta, json.loads(SCHEMA_FILE.read_text()))
    image, pred = meta["network_data_format"]["inputs"]["image"], meta["network_data_format"]["outputs"]["pred"]
    assert (image["modality"], image["format"]) == (modality, form)
    assert list(image["channel_modality"].values()) == modalities
    assert meta["image_classes"].startswith(intensities)
    assert pred["region_def"] == {"0": "liver", "1": "lesion"}
    assert pred["colour_def"] == {"0": "#56B4E9", "1": "#123456"}  # the palette's first, and the declared one


@pytest.mark.parametrize("name", NAMES)
def test_each_is_complete_by_itself(name):
    folder = PIPELINES / name
    assert (folder / "LICENSE").read_text() == (PIPELINES.parent / "LICENSE").read_text()
    assert (folder / "configs" / "logging.conf").read_text() == (TEMPLATE / "configs" / "logging.conf").read_text()
    assert "cggm-med train --resume" in (folder / "docs" / "README.md").read_text()
    assert (folder / "docs" / "data_license.txt").exists()
    train = yaml.safe_load((folder / "configs" / "train.yaml").read_text())
    assert set(train) >= {"bundle_root", "device", "dataset_dir", "output_dir", "val_interval", "network_def"}
    assert set(train["train"]) >= {"trainer", "dataset", "inferer", "handlers"}
    assert {"max_epochs"} <= set(train["train"]["trainer"])
    assert set(train["validate"]) >= {"evaluator", "handlers", "dataset"}
    assert "data" in train["train"]["dataset"]
    assert "data" in train["validate"]["dataset"]


def test_metadata_that_say_too_little_are_refused():
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    good = json.loads((PIPELINES / NAMES[0] / "configs" / "metadata.json").read_text())
    for key in schema["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in good.items() if k != key}, schema)
    form = good["network_data_format"]
    for change in ({"dtype": "float"}, {"num_channels": 0}, {"channel_def": {"a": "x"}}, {"value_range": [1]}):
        bad = {**form, "outputs": {"pred": {**form["outputs"]["pred"], **change}}}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**good, "network_data_format": bad}, schema)


def run_monai(folder, *words):
    done = processes.run(*words, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


CHECK = """
import json, sys
from monai import bundle
from monai.bundle import ConfigWorkflow
bundle.verify_metadata(meta_file="configs/metadata.json", filepath=sys.argv[1])
for n in (1, 2):
    bundle.verify_net_in_out(
        "network_def", meta_file="configs/metadata.json", config_file="configs/inference.yaml", device="cpu", n=n
    )
missing = {}
for kind, file in (("train", "train"), ("infer", "inference"), ("infer", ["inference", "evaluate"])):
    files = [f"configs/{name}.yaml" for name in ([file] if isinstance(file, str) else file)]
    workflow = ConfigWorkflow(
        files, "configs/metadata.json", logging_file=False, workflow_type=kind, dataset_dir=sys.argv[2],
        **{"network_def#model#channels": [4, 8]},
    )
    workflow.initialize()
    missing[str(file)] = workflow.check_properties()
json.dump(missing, open("missing.json", "w"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_monai_trains_segments_and_scores(name, phantom, cache, tmp_path):
    folder = shutil.copytree(PIPELINES / name, tmp_path / name)
    settings = [f"data.cache={cache}", "train.steps_per_epoch=2", "data.workers=0", "data.validation=0.2"]
    words = ["--config_file", "configs/train.yaml", *META, "--dataset_dir", phantom, "--max_epochs", "2"]
    words += [*SMALL, "--train#inferer#roi_size", "[16,16,16]", "--overrides", json.dumps([*settings, "data.test=0.2"])]
    run_monai(folder, "-m", "monai.bundle", "run", *words)
    stored = read_file(folder / "run" / "config.yaml")
    assert stored["train"]["epochs"] == 2
    assert stored["strategy"]["name"] == name.split("_")[1]
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["provenance"]["command"].startswith("python -m monai.bundle run --config_file configs/train.yaml")

    words = [
        "--config_file",
        "configs/inference.yaml",
        *META,
        "--dataset_dir",
        phantom,
        "--output_dir",
        "masks",
        *SMALL,
    ]
    run_monai(folder, "-m", "monai.bundle", "run", *words)
    predictor = Predictor(folder / "run", "cpu", trust_names=True)
    for case in ("BraTS2021_00000", "BraTS2021_00001"):
        images = {m: phantom / case / f"{case}_{m}.nii.gz" for m in predictor.task.modalities}
        mask = np.asarray(nib.load(folder / "masks" / f"{case}.nii.gz").dataobj)
        np.testing.assert_array_equal(mask, predictor.predict(case, images).labels)

    run_monai(folder, "-c", CHECK, SCHEMA_FILE, phantom)
    assert json.loads((folder / "missing.json").read_text()) == {
        "train": [],
        "inference": [],
        "['inference', 'evaluate']": [],
    }
    report = EngineEvaluator(str(folder / "run"), Scans(str(phantom)), "cpu").run()
    assert report.split == "validation"


def test_handlers_are_refused():
    """Else somebody's handler would silently never be called."""
    with pytest.raises(ConfigError, match="2 handlers given, expected none"):
        EngineEvaluator("run", Scans("scans"), "cpu", [print, print])
