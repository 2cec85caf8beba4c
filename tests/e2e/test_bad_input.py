"""Bad input through the command line: one message with what is wrong and what fixes it, nothing half-written."""

import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from helpers.command_line import command, set_options
from helpers.small_runs import quiet, small_config, small_settings

from cggm_med.lock import alone
from cggm_med.runs import train as run
from cggm_med.training import checkpoint as checkpoints
from cggm_med.training import loop, step

KINDS = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w", "seg": "seg"}  # BraTS 2021 to BraTS 2023


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs a command that must fail and returns what it says."""

    def refuse(*words, code=1):
        command(monkeypatch, *words, code=code)
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    return refuse


@pytest.fixture
def train_refused(refused, phantom, cache, tmp_path):
    """The same for a training that must not even begin, so no run folder may stay behind."""

    def refuse(*words, data=phantom, **settings):
        out = tmp_path / "run"
        flags = set_options(small_settings(data, cache, **settings))
        message = refused("train", "--preset", "tiny", "--out", out, *flags, *words)
        assert not out.exists()
        return message

    return refuse


def says(message, *parts):
    for part in parts:
        assert part in message


def scan(folder, number, kind):
    case = f"BraTS2021_{number:05d}"
    return folder / case / f"{case}_{kind}.nii.gz"


def rewrite(path, change=lambda voxels: voxels, stretch=1.0):
    """Save a scan anew with other voxels, or with voxels that are longer along z."""
    image = nib.load(path)
    voxels = change(np.asanyarray(image.dataobj))
    nib.save(nib.Nifti1Image(voxels, image.affine @ np.diag([1, 1, stretch, 1])), path)


def put(*values):
    """A change that replaces the first voxels."""

    def change(voxels):
        voxels = voxels.astype(np.float32)
        voxels.flat[: len(values)] = values
        return voxels

    return change


def lose_two_files(data):
    scan(data, 0, "t2").unlink()
    scan(data, 3, "flair").unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def repeat_a_case(data):
    shutil.copytree(data / "BraTS2021_00000", data / "again" / "BraTS2021_00000")


def stretch_a_case(data):
    for kind in KINDS:
        rewrite(scan(data, 2, kind), stretch=1.2)


def lose_a_region(data):
    for number in range(6):
        rewrite(scan(data, number, "seg"), lambda labels: np.where(labels == 4, 1, labels).astype(np.uint8))


def break_two_cases(data):
    truncate(scan(data, 1, "t1"))
    rewrite(scan(data, 4, "t2"), put(np.nan))


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        pytest.param(spoil, parts, id=name)
        for name, spoil, *parts in [
            ("missing", lose_two_files, "BraTS2021_00000: no t2 (expected BraTS2021_00000_t2.nii.gz)",
             "BraTS2021_00003: no flair (expected BraTS2021_00003_flair.nii.gz)", "fix or leave out"),
            ("shape", lambda data: rewrite(scan(data, 1, "t1"), lambda x: x[:-1]), "BraTS2021_00001_t1.nii.gz",
             "differ in shape: 48 x 48 x 32 and 47 x 48 x 32", "one grid for each case", "Fix or leave out"),
            ("affine", lambda data: rewrite(scan(data, 1, "t1"), stretch=1.1),
             "BraTS2021_00001_t1.nii.gz", "differ in affine; a corner moves by 3.15 voxels, allowed are 0.05"),
            ("label", lambda data: rewrite(scan(data, 1, "seg"), put(3)), "BraTS2021_00001_seg.nii.gz: it holds 3;",
             "0 background, 1 necrotic core, 2 oedema, 4 enhancing tumour", "chosen with --set task.labels=NAME",
             "msd: 0 background, 1 oedema, 2 non-enhancing tumour, 3 enhancing tumour"),
            ("not finite", lambda data: rewrite(scan(data, 1, "t1ce"), put(np.nan, np.inf, -np.inf)),
             "t1ce", "BraTS2021_00001_t1ce.nii.gz: 1 NaN voxels and 2 infinite voxels", "expected finite voxels"),
            ("truncated", lambda data: truncate(scan(data, 2, "flair")), "BraTS2021_00002_flair.nii.gz",
             "cannot be read: Compressed file ended", "copy it anew"),
            ("several", break_two_cases, "2 problems in 6 cases", "BraTS2021_00001_t1.nii.gz cannot be read",
             "BraTS2021_00004_t2.nii.gz: 1 NaN voxels"),
            ("same id", repeat_a_case, "BraTS2021_00000: the same id twice:", "/again/", "fix or leave out"),
            ("voxel size", stretch_a_case, "5.0 x 5.0 x 6.0 mm", "BraTS2021_00002", "--set data.spacing=[5,5,5]"),
            ("no ET", lose_a_region, "region ET has no voxel in any of the 4 training cases", "'brats2021'",
             "--set task.labels=NAME"),
        ]
    ],
)  # fmt: skip
def test_scans(spoil, parts, train_refused, phantom, tmp_path):
    data = shutil.copytree(phantom, tmp_path / "data")
    spoil(data)
    says(train_refused(data=data), "DataError: ", *parts)


def test_a_real_file_with_infinite_voxels(train_refused, shared_data, tmp_path):
    entry = {"id": "s", "flair": "mtr.nii.gz", "t1": "mt0.nii.gz", "label": "mt1_seg.nii.gz"}
    files = {key: name if key == "id" else str(shared_data(f"sct/mt/{name}")) for key, name in entry.items()}
    (tmp_path / "list.json").write_text(json.dumps({"training": [files]}))
    settings = {"data": tmp_path / "list.json", "task__modalities": "[flair,t1]", "task__labels": "brats2021"}
    says(train_refused(**settings), "mtr.nii.gz: 633 infinite voxels of 8000", "expected finite voxels")


def test_no_scans(train_refused, tmp_path):
    (tmp_path / "empty").mkdir()
    says(train_refused(data=tmp_path / "empty"), "no images found in", "/empty", "*_flair, *_t1", "*-t2f", "datalist")
    says(train_refused(data=tmp_path / "nowhere"), "/nowhere does not exist; expected a folder or file with the data")
    (tmp_path / "scan.nii").touch()
    says(train_refused(data=tmp_path / "scan.nii"), "/scan.nii is a file; expected a folder of images or a datalist")


def test_labels_of_a_datalist_need_a_convention(train_refused, phantom, tmp_path):
    entry = {"id": "a", "flair": str(scan(phantom, 0, "flair")), "label": str(scan(phantom, 0, "seg"))}
    (tmp_path / "list.json").write_text(json.dumps({"training": [entry]}))
    message = train_refused(data=tmp_path / "list.json", task__modalities="[flair]")
    says(message, "--set task.labels=NAME", "msd: 0 background, 1 oedema, 2 non-enhancing tumour, 3 enhancing tumour")


def test_a_case_or_a_patient_in_two_splits(train_refused, phantom, tmp_path):
    splits = tmp_path / "splits.json"
    ids = [f"BraTS2021_{number:05d}" for number in range(6)]
    splits.write_text(json.dumps({"train": ids[:4], "validation": [ids[4]], "test": [ids[5], ids[0]]}))
    message = train_refused(data__splits=splits)
    says(message, "splits.json cannot be used", f"{ids[0]} stands in train and again in test", "fix the file")

    visits = [("00000", "000"), ("00001", "000"), ("00000", "001")]  # two patients, the first of them seen twice
    names = ["BraTS-GLI-" + "-".join(visit) for visit in visits]
    (tmp_path / "data").mkdir()
    for number, name in enumerate(names):
        for old, new in KINDS.items():
            shutil.copy(scan(phantom, number, old), tmp_path / "data" / f"{name}-{new}.nii.gz")
        rewrite(
            tmp_path / "data" / f"{name}-seg.nii.gz", lambda labels: np.where(labels == 4, 3, labels).astype(np.uint8)
        )
    splits.write_text(json.dumps({"train": names[:2], "validation": [], "test": names[2:]}))
    message = train_refused(data=tmp_path / "data", data__splits=splits)
    says(message, f"patient BraTS-GLI-00000 stands in train (case {names[0]}) and test (case {names[2]})")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--task brats21", ["no task 'brats21'. Did you mean 'brats2021'? Known: avdigits, brats2021, "]),
        ("--strategy cgm", ["no strategy 'cgm'. Did you mean 'cggm'? Known: agm, cggm, cggm_paper"]),
        ("--preset tinny", ["'tinny'. Did you mean 'tiny'? Known: base, full, paper, tiny"]),
        ("--set optm.lr=1", ["no configuration section 'optm'. Did you mean 'optim'? Known: data, model"]),
        ("--set optim.learn=1", ["no configuration key 'optim.learn'.", "Known: optim.clip_norm, optim.decay"]),
        ("--set optim.lrr=1", ["Did you mean 'optim.lr'?"]),
        ("--set optim.lr", ["--set optim.lr: expected KEY=VALUE, such as --set optim.lr=1e-3"]),
        ("--set lr=0.1", ["lr is 0.1, expected settings written SECTION.KEY=VALUE, such as optim.lr=0.1"]),
        ("--set data=5", ["data is 5, expected settings written SECTION.KEY=VALUE"]),
        ("--set optim.lr=[", ["--set optim.lr=[: '[' is not valid YAML"]),
        ("--set data.path=2021-13-01", ["'2021-13-01' is not valid YAML; put text in quotes"]),
        ("--set optim.lr=fast", ["optim.lr is 'fast', expected a number"]),
        ("--set optim.lr=inf", ["optim.lr is inf, expected more than 0 and finite"]),
        ("--set optim.weight_decay=-1", ["optim.weight_decay is -1.0, expected at least 0"]),
        ("--set train.epochs=0", ["train.epochs is 0, expected at least 1"]),
        ("--set train.seed=1e30", ["train.seed is 1000000000000000019884624838656, expected at least 0, below 2**63"]),
        ("--set train.device=gpu", ["device is gpu, expected auto, cpu, cuda, cuda:N or mps"]),
        ("--set model.channels=[0,4]", ["model.channels is [0, 4], expected at least 1 channel"]),
        ("--set data.patch_size=[40,40]", ["data.patch_size is [40, 40], expected 3 values"]),
        ("--set model.strides=[[2,2,2],[2,2,2]]", ["model.strides is", "expected 1 along each axis at the first"]),
        ("--set model.kernels=[[2,2,2],[3,3,3]]", ["model.kernels is", "expected odd widths"]),
        ("--set strategy.rou=1", ["no configuration key 'strategy.rou'.", "Strategy 'cggm' has no others"]),
        ("--strategy joint --set strategy.heads=false --set train.subset_view=1 --set train.subset_view_guided=true",
         ["train.subset_view_guided is true", "set strategy.heads=true"]),
        ("--set data.patch_size=[17,16,16]", ["data.patch_size is [17, 16, 16], expected multiples of 2, at least 4"]),
        ("--set data.spacing=[inf,1,1]", ["data.spacing is (inf, 1.0, 1.0), expected more than 0 mm"]),
        ("--set task.modalities=[flair,t3]", ["no modality 't3'. Did you mean 't2'? Known: flair, t1, t1ce, t2"]),
        ("--set task.modalities=[t1,t1]", ["task.modalities is ['t1', 't1'], expected each modality once"]),
        ("--set task.labels=brats2020", ["no label convention 'brats2020'.", "Known: brats2013", "task.labels=NAME"]),
        ("--strategy gblending --set data.validation=0", ["'gblending' measures losses of validation cases and there"]),
        ("--set data.required=[t5]", ["no modality to require 't5'. Did you mean 't2'? Known: flair, t1"]),
        ("--set data.splits=nowhere.json", ["cannot read nowhere.json: it does not exist"]),
    ],
)  # fmt: skip
def test_names_and_settings(words, parts, train_refused):
    says(train_refused(*words.split(" ")), *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["mine.yaml: it does not exist; expected a YAML or JSON file"]),
        ("optim: [1", ["mine.yaml is not valid YAML", "line 1, column 10: expected"]),
        ("- a\n", ["mine.yaml holds a list, expected settings such as 'optim: {lr: 1e-3}'"]),
        ("", ["mine.yaml holds nothing, expected settings such as"]),
        ("lr: 0.1\n", ["mine.yaml: lr is 0.1, expected settings such as 'optim: {lr: 1e-3}'"]),
        ("optim: {lrr: 1}\n", ["no configuration key 'optim.lrr'. Did you mean 'optim.lr'?"]),
        ("7: {a: 1}\n", ["no configuration section '7'. Known: data, model"]),
        ("strategy: {name: joint, strength: 1}\n", ["'cggm'", "strategy.strength", "settings of 'joint'; leave them"]),
    ],
    ids=str,
)
def test_settings_files(content, parts, train_refused, tmp_path):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    says(train_refused("--config", path, "--strategy", "cggm"), *parts)


def test_folders_that_cannot_be_written(refused, train_refused, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    says(refused("train", "--out", tmp_path / "full"), "/full already exists; choose another folder with --out")
    says(refused("train", "--out", tmp_path / "file"), "/file already exists; choose another folder with --out")
    message = refused("train", "--out", tmp_path / "file" / "run")
    says(
        message,
        "OutputError: cannot write to folder",
        "/file/run: a file of that name is in the way; choose another folder with --out",
    )
    for workers in "01":  # an error in another process comes as the same message
        message = train_refused(data__cache=tmp_path / "file" / "cache", data__workers=workers)
        says(
            message,
            "/file/cache",
            "a file of that name is in the way; choose another folder",
            "--set data.cache=FOLDER",
        )


def test_two_processes_never_work_on_one_folder(finished, refused, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    for folder, words in (
        (new, ("train", "--out", new)),
        (finished, ("train", "--resume", finished)),
        (new, ("compare", "--strategies", "joint", "--out", new)),
    ):
        with alone(folder):
            says(refused(*words), f"{folder} is in use by process {os.getpid()}", "let it end")
    assert not list(new.iterdir())


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("compare", "--strategies", "joint,uniform"), "cost.png"),
        (("reproduce", "cggm/brats2021", "--phantom"), "table.csv"),
        (("benchmark", "brats2020-rfnet", "--phantom"), "benchmark.md"),
    ],
    ids=lambda of: of[0] if isinstance(of, tuple) else "",
)
def test_results_replace_no_file_of_others(refused, tmp_path, words, name):
    (tmp_path / name).write_text("mine")
    says(refused(*words, "-o", tmp_path), f"{name} is there, and this command did not write it")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def snapshot(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, phantom, cache):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run.start(small_config(phantom, cache, train__epochs="1"), folder, quiet())
    return folder


class Bomb:
    """Leaves a trace if unpickling runs it."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def flip_a_bit(path):
    """Of a weight: what a failing disk does, and torch does not notice."""
    with zipfile.ZipFile(path) as archive:
        tensors = [member for member in archive.infolist() if "/data/" in member.filename]
        weights = archive.read(max(tensors, key=lambda member: member.file_size))
    content = bytearray(path.read_bytes())
    content[content.index(weights) + 3] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)


@pytest.mark.parametrize(
    "spoil",
    [
        truncate,
        flip_a_bit,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps(Bomb(path.parent / "trace"))),
        lambda path: torch.save({"format": 1, "config": Bomb(path.parent / "trace")}, path),
    ],
    ids=["truncated", "flipped bit", "empty", "pickle bomb", "pickle bomb in a torch archive"],
)
def test_damaged_checkpoints(spoil, finished, refused, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    for name in ("last.pt", "best.pt"):
        spoil(folder / "checkpoints" / name)
    before = snapshot(folder)
    for words, name in ((["train", "--resume"], "last.pt"), (["evaluate"], "best.pt")):
        message = refused(*words, folder)
        says(message, "CheckpointError: ", f"{name} is damaged or holds more than tensors", "put a whole copy")
    assert not (folder / "checkpoints" / "trace").exists()
    assert snapshot(folder) == before


def test_folders_that_are_no_runs(finished, refused, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        for words in (["train", "--resume"], ["evaluate"]):
            why = "it does not exist" if folder.name == "nowhere" else "it has no config.yaml"
            says(refused(*words, folder), f"{folder} is not a run folder: {why}; name the one")
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "config.yaml").write_text("optim: {lr: 1}")
    says(refused("evaluate", folder), "config.yaml is damaged: it names no task")
    shutil.copy(finished / "config.yaml", folder)
    (folder / "splits.json").write_text("{")
    says(refused("train", "--resume", folder), "splits.json is missing or damaged")
    (folder / "splits.json").write_text('{"train": ["a"], "validation": [], "test": []}')
    says(refused("evaluate", folder), "held no case out; name other scans with --data, or", "with --split")
    shutil.copy(finished / "splits.json", folder)
    (folder / "metrics.jsonl").write_text("{\n")
    says(refused("train", "--resume", folder), "metrics.jsonl is damaged", "put back a whole copy, or remove it")
    shutil.rmtree(folder / "checkpoints")
    says(refused("evaluate", folder), "no checkpoint", "last.pt; train first, copy the whole folder anew")


@pytest.mark.parametrize(
    ("before", "after", "says_what"),
    [
        ("  foreground: 0.5", "  foreground: 0.25", "data.foreground: 0.5 != 0.25"),
        ("  - flair\n  - t1\n", "  - t1\n  - flair\n", "task.modalities: "),
        ("  overlap: 0.5", "  overlap: 0.25", "data.overlap: 0.5 != 0.25"),
    ],
)
def test_settings_that_were_edited_after_the_training(before, after, says_what, finished, refused, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    text = (folder / "config.yaml").read_text()
    edited = text.replace(before, after, 1)
    assert edited != text
    (folder / "config.yaml").write_text(edited)
    for words in (("evaluate", folder), ("bundle", "export", folder, "-o", tmp_path / "bundle")):
        says(refused(*words), "config.yaml was changed after the training", says_what, "put that back")
    assert not (tmp_path / "bundle").exists()


def test_a_run_keeps_its_settings(finished, refused):
    before = snapshot(finished)
    message = refused("train", "--resume", finished, "--set", "optim.lr=0.01", "--set", "data.workers=1")
    says(message, "other settings (run != now): optim.lr: 0.003 != 0.01; leave them as they were, or start a new run")
    says(
        refused("train", "--resume", finished, "--strategy", "joint"), "run of strategy 'cggm', not 'joint'; leave that"
    )
    says(refused("train", "--resume", finished, "--preset", "tiny", code=2), "--preset cannot go with --resume")
    message = refused("evaluate", finished, "--set", "model.channels=[4,16]")
    says(message, "best.pt does not fit this model, keep the settings of its run", "size mismatch")
    message = refused("evaluate", finished, "--set", "optim.lr=3")
    says(
        message, "was trained with other settings (run != now): optim.lr: 0.003 != 3.0; leave them out, or train a new"
    )
    assert snapshot(finished) == before


def test_evaluation_on_what_the_run_was_trained_on(finished, refused, phantom, tmp_path):
    copied = shutil.copytree(phantom, tmp_path / "elsewhere")
    for case in sorted(copied.iterdir()):  # the scans tell, not their names
        for path in case.iterdir():
            path.rename(path.with_name(path.name.replace("BraTS2021", "Study")))
    message = refused("evaluate", finished, "--data", copied, "--out", tmp_path / "out")
    says(message, "5 of 6 cases were used to train this run (Study_0000", "--split test", "--split all")
    assert not (tmp_path / "out").exists()
    says(refused("evaluate", finished, "--split", "tset"), "no split 'tset'. Did you mean 'test'? Known: all, test")


def test_a_loss_that_is_not_finite_stops_the_run(refused, phantom, cache, tmp_path, monkeypatch):
    real, batches = loop.train_step, []

    def train_step(model, strategy, optimizer, criterion, batch, step, **rest):
        batches.append(batch.ids)
        factor = math.nan if len(batches) == 3 else 1
        return real(model, strategy, optimizer, lambda *x: factor * criterion(*x), batch, step, **rest)

    monkeypatch.setattr(loop, "train_step", train_step)
    settings = small_settings(phantom, cache, train__epochs="1", train__checkpoint_every="1")
    flags = set_options(settings)
    folder = tmp_path / "run"
    message = refused("train", "--preset", "tiny", "--out", folder, *flags)
    last = folder / "checkpoints" / "last.pt"
    says(message, f"NonFiniteLoss: loss is nan at step 3 (cases {', '.join(batches[2])}); the last good checkpoint is")
    says(message, f"{last}. Look at these cases, or lower optim.lr")
    assert not (folder / "results.json").exists()

    saved = checkpoints.load(last, torch.device("cpu"))
    assert saved.step == 2
    assert all(value.isfinite().all() for value in saved.model.values())
    run.resume(folder, {}, quiet())
    assert (folder / "results.json").exists()


def test_gradients_that_are_never_finite_stop_the_run(refused, phantom, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(
        step, "clip_gradients", lambda model, norm: (torch.ones(4), torch.ones(()), torch.tensor(math.inf))
    )
    settings = small_settings(phantom, cache, train__log_every="3")
    flags = set_options(settings)
    message = refused("train", "--preset", "tiny", "--out", tmp_path / "run", *flags)
    says(message, "not finite in any of the 3 steps up to 3", "lower optim.lr")


def test_an_ablation_warns_in_one_line(tmp_path):
    (tmp_path / "scan.nii").touch()
    words = [
        "train",
        "--set",
        "strategy.mode=paper",
        "--data",
        str(tmp_path / "scan.nii"),
        "--out",
        str(tmp_path / "run"),
    ]
    ended = subprocess.run([sys.executable, "-m", "cggm_med.cli", *words], capture_output=True, text=True, check=False)
    warning, error = ended.stderr.strip().splitlines()
    assert warning.startswith("warning: cggm mode=paper is for comparison")
    assert "scan.nii is a file" in error


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_is_shown_on_demand_only(debug, monkeypatch):
    words = ["train", "--set", "optim.lr", *["--debug"] * debug]
    ended = subprocess.run([sys.executable, "-m", "cggm_med.cli", *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ("Traceback (most recent call last)" in ended.stderr) == debug
    assert ended.stderr.strip().splitlines()[-1].endswith("expected KEY=VALUE, such as --set optim.lr=1e-3")
    assert debug or len(ended.stderr.strip().splitlines()) == 1


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "cggm_med.cli", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "train" in ended.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in ended.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    assert not imported & {"torch", "monai", "numpy", "nibabel", "torchio", "SimpleITK", "matplotlib", "nnunetv2"}
