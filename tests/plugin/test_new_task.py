"""``cggm-med new-task``: what it writes is installed with pip, found, trained, resumed, scored and tested.

For classification, which is what it writes unless it is told another kind; test_new_segmentation has the other one.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import processes
from helpers.command_line import set_options
from helpers.packages import (
    ROOT,
    assert_its_own_tests_pass,
    assert_keeps_the_rules_of_this_project,
    assert_template_with_another_name,
    cggm_med,
    installed,
    listed,
    new_package,
    python_blocks,
    run,
    write_metadata,
)
from scipy.io import wavfile

from cggm_med import make_config, registry
from cggm_med.cli import app as cli
from cggm_med.scaffold.packages import CLASSIFICATION, SUFFIXES, TEMPLATES, write_package

GUIDE = ROOT / "docs" / "how-to" / "add-a-task.md"
NAME = "spoken_digits"
# Dies in the second step, after the first was written down.
KILLED = """
import os, sys
from cggm_med.cli import app as cli
from cggm_med.training import loop
real, count = loop.train_step, iter((1, 2))
def train_step(*args, **kwargs):
    losses = real(*args, **kwargs)
    return losses if next(count) == 1 else os._exit(9)
loop.train_step = train_step
cli.main()
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return new_package(CLASSIFICATION, NAME, tmp_path_factory.mktemp("new") / "package")


@pytest.fixture(scope="module")
def environment(package, tmp_path_factory):
    return installed(package, tmp_path_factory.mktemp("installed"))


def module_of(folder, monkeypatch):
    """The task's module, without installing it."""
    spec = importlib.util.spec_from_file_location("spoken_digits_task_module", folder / f"{NAME}_task" / "task.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_it_is_listed_trained_and_scored(environment, tmp_path):
    assert listed(environment, "tasks", NAME).endswith(f"[sound,image]  ({NAME}_task 0.1.0)")

    short = ["train.epochs=2", "train.steps_per_epoch=1", "train.checkpoint_every=1", "train.validate_every=1"]
    words = ["train", "--task", NAME, *set_options(short)]
    said = cggm_med(environment, *words, "--out", tmp_path / "whole")
    assert "no --data given" in said
    killed = processes.run("-c", KILLED, *words, "--out", tmp_path / "killed", env=environment)
    assert killed.returncode == 9
    assert "resuming at step 1 of 2" in cggm_med(environment, "train", "--resume", tmp_path / "killed")
    whole, resumed = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "killed"))
    assert resumed["cases"] == whole["cases"]
    assert {row["modality"] for row in whole["heads"]} == {"sound", "image"}

    cggm_med(environment, "evaluate", tmp_path / "whole")
    again = json.loads((tmp_path / "whole" / "evaluations" / "test" / "results.json").read_text())
    assert again["cases"] == whole["cases"]
    classes = yaml.safe_load((tmp_path / "whole" / "config.yaml").read_text())["task"]["classes"]
    assert classes == ["autumn", "spring", "summer", "winter"]


@pytest.mark.slow
def test_its_own_tests_pass(package, environment):
    assert_its_own_tests_pass(package, environment, count=5)


@pytest.mark.slow
def test_its_modalities_differ_and_together_tell_more(environment, tmp_path):
    words = ["train", "--task", NAME, "--strategy", "joint", "--out", tmp_path / "run"]
    cggm_med(environment, *words)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    accuracy = {row["predicted_by"]: row["accuracy"] for row in results["summary"]}
    assert accuracy["fused"] > accuracy["sound"] > accuracy["image"] + 0.1
    assert accuracy["image"] > 0.25 + 0.05


def test_it_is_the_template_with_another_name(package):
    assert_template_with_another_name(CLASSIFICATION, package, NAME, "SpokenDigits")


def test_it_keeps_the_rules_of_this_project(package):
    assert_keeps_the_rules_of_this_project(package)


def test_an_installed_cggm_med_has_the_templates_and_the_public_names(tmp_path):
    command = ["-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    done = run(os.environ, *command, folder=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    assert {"cggm_med/__init__.pyi", "cggm_med/py.typed"} <= inside  # types, and the list of public names
    for source in TEMPLATES.rglob("*"):
        if source.suffix in SUFFIXES:
            assert source.relative_to(ROOT).as_posix() in inside


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Runs the command, which must fail in one line and write nothing."""
    monkeypatch.chdir(tmp_path)

    def command(*words):
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr("sys.argv", ["cggm-med", "new-task", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        message = capsys.readouterr().err
        assert end.value.code == 1
        assert message.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return message

    return command


@pytest.mark.parametrize("name", ["", "Digits", "9digits", "_digits", "a-b", "a b", "a.b", "../x", "dígitos", "a\n"])
def test_names_that_are_none(name, refused):
    assert f"task name {name!r}: expected lower-case letters, digits and underscores" in refused(name)


def test_names_that_are_taken(refused):
    assert "a word of Python" in refused("class")
    assert re.search(r"'mosi' is taken by cggm-med \S+; choose another", refused("mosi"))
    assert "the name of a base class" in refused("classification")


def test_kinds_that_are_none(refused):
    assert "no kind of task 'segmentatoin'. Did you mean 'segmentation'? Known: classification" in refused(
        "digits", "--kind", "segmentatoin"
    )


def test_the_help_says_which_kinds_there_are_and_what_needs_none():
    said = " ".join(cggm_med({**os.environ, "COLUMNS": "200"}, "new-task", "--help").split())
    assert "Kind classification: samples of any modalities" in said
    assert "Kind segmentation: regions in scans that only a program can list" in said
    assert "For scans in a folder you need no Python: 'cggm-med init FOLDER -o dataset.json'" in said
    assert "[default: classification]" in said


def test_folders_that_exist_stay_as_they_are(refused, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("full", "file", "link"):
        assert f"OutputError: {name} exists already; name a new folder with --out" in refused(name)
        assert "exists already" in refused("digits", "--out", tmp_path / name)
    assert "cannot write" in refused("digits", "--out", tmp_path / "file" / "below")


def test_a_folder_is_whole_or_not_there(refused, monkeypatch):
    real, count = Path.write_text, iter(range(10))

    def full_disk(*args, **kwargs):
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(Path, "write_text", full_disk)
    assert "No space left on device" in refused("digits")


def code_of(guide, first_line):
    """The code block of the guide that begins so."""
    return next(block for block in python_blocks(guide) if block.startswith(first_line))


def test_the_guide_shows_the_test_that_is_written(package):
    written = (package / "tests" / f"test_{NAME}.py").read_text()
    for first_line in ("def change(", "def test_it_keeps_the_laws"):
        assert f"\n\n{code_of(GUIDE, first_line)}\n\n" in written


def walk_through(recordings, folder, monkeypatch):
    """The task after the steps of the guide, and where its data are."""
    (folder / "prepare.py").write_text(code_of(GUIDE, '"""Spoken digits with images'))
    done = subprocess.run([sys.executable, folder / "prepare.py", recordings, folder / "digits"], capture_output=True)
    assert done.returncode == 0, done.stderr
    write_package(CLASSIFICATION, NAME, folder / "package")
    file = folder / "package" / f"{NAME}_task" / "task.py"
    changed, count = re.subn(r"SHAPES = \{.*?\n\}\n", code_of(GUIDE, "SHAPES"), file.read_text(), flags=re.DOTALL)
    assert count == 1
    file.write_text(changed)
    return module_of(folder / "package", monkeypatch), folder / "digits"


def first_batch(module, data, monkeypatch):
    """The changed task, its first batch of these data, and the logits of a new network."""
    real, cls = registry.load, module.SpokenDigitsTask
    monkeypatch.setattr(registry, "load", lambda group, name: cls if name == NAME else real(group, name))
    task = cls(make_config(NAME, [{"data": {"path": str(data)}, "train": {"steps_per_epoch": 1}}]))
    task.find(print)
    task.prepare(task.default_splits(), print)
    batch = next(iter(task.batches(0, pin_memory=False)))
    return task, batch, task.model()(batch.inputs)


def test_the_guide_walks_through(tmp_path, monkeypatch):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    random = np.random.default_rng(0)
    for speaker in ("ada", "ben", "cleo", "dan"):
        for digit in range(10):
            for index in range(2):
                sound = random.normal(size=random.integers(1200, 6000)) * 3000
                wavfile.write(recordings / f"{digit}_{speaker}_{index}.wav", 8000, sound.astype(np.int16))
    task, batch, logits = first_batch(*walk_through(recordings, tmp_path, monkeypatch), monkeypatch)
    assert task.targets == tuple("0123456789")
    assert len(task.samples) == 80
    assert batch.inputs["sound"].shape == (32, 96)
    assert batch.inputs["image"].shape == (32, 1, 8, 8)
    assert logits.shape == (32, 10)
    images = tmp_path / "digits" / "image"
    ada, ben = ({file.read_bytes() for file in images.glob(f"*_{speaker}_*.npy")} for speaker in ("ada", "ben"))
    assert len(ada) == len(ben) == 20
    assert not ada & ben


def test_the_guide_holds_for_the_real_recordings(tmp_path, shared_data, monkeypatch):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    with tarfile.open(shared_data("fsdd/recordings.tar")) as archive:
        for member in archive:
            if member.name.endswith(".wav"):
                (recordings / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    task, _, logits = first_batch(*walk_through(recordings, tmp_path, monkeypatch), monkeypatch)
    assert len({sample.group for sample in task.samples.values()}) == 6
    assert logits.isfinite().all()


def test_the_guides_segmentation_task_is_complete(tmp_path, monkeypatch):
    (tmp_path / "np_ms.py").write_text(code_of(GUIDE, '"""Multiple sclerosis'))
    write_metadata(tmp_path, "np-ms", "1", registry.TASKS, {"ms": "np_ms:MS"})
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config("ms", [{"data": {"path": str(tmp_path)}}])
    assert config.preset == "base"
    assert registry.load(registry.TASKS, "ms")(config).modalities == ("flair", "t1", "t2")
