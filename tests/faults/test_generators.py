"""Faults that were found by trying, made anew by the generators of the shared data, and what commands say of them."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from cggm_med.cli.app import app
from cggm_med.data.folders.propose import read_any
from cggm_med.errors import DataError
from cggm_med.runs.settings import instantiate, make_config
from faults.commands import Cohort

GENERATORS = Path(__file__).resolve().parents[3] / "shared" / "faults"
pytestmark = pytest.mark.skipif(not GENERATORS.is_dir(), reason="the generators are not here")
ROLES = ("flair", "t1", "t1ce", "t2", "seg")
SMALL = {
    "data.workers": 0,
    "data.patch_size": "[16,16,16]",
    "model.channels": "[4,8]",
    "train.epochs": 1,
    "train.steps_per_epoch": 1,
    "train.device": "cpu",
}
# What is told only beside more cases than these, if at all, see docs/trust.md.
HARD = {"one_image_flipped", "one_image_of_another_patient", "intensities_inverted", "t1_and_t1ce_exchanged"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Imports a generator, which writes below a new folder."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BUGS", str(folder))
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.syspath_prepend(str(GENERATORS))
        yield importlib.import_module("make_cases"), importlib.import_module("clinic"), folder
    for name in ("make_cases", "clinic", "common", "dicom_study"):
        sys.modules.pop(name, None)


@pytest.fixture
def make(made):
    """Makes the cases of one generator, and gives their folder."""
    cases, _, folder = made

    def of(name):
        getattr(cases, name)()
        return folder / name

    return of


def command(*words):
    """The exit code of a command, and all that it said in one line."""
    ended = CliRunner().invoke(app, [str(word) for word in words])
    said = ended.output if ended.exception is None else f"{ended.output} {ended.exception}"
    return ended.exit_code, " ".join(said.split())


def settings(cache, **more):
    pairs = {**SMALL, "data.cache": cache, **more}
    return [word for key, value in pairs.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    """A run that saw the last of the base cases for one step."""
    folder = tmp_path_factory.mktemp("run")
    for source in sorted((GENERATORS / "base").iterdir())[6:]:
        (folder / "data" / source.name).parent.mkdir(exist_ok=True)
        (folder / "data" / source.name).symlink_to(source)
    words = ("--task", "brats2021", "--preset", "tiny", "--strategy", "joint", "--data", folder / "data")
    code, said = command("train", *words, "--out", folder / "run", *settings(cache))
    assert code == 0, said
    return folder / "run"


def evaluated(run, data, out, *words):
    """The rows of an evaluation, by case and region."""
    code, said = command("evaluate", run, "--data", data, "--out", out, *words)
    assert code == 0, said
    rows = json.loads((out / "results.json").read_text())["cases"]
    return {(row["case"], row["region"]): row for row in rows}, said


def first(folder, count):
    """The same folder with its first cases only."""
    for path in sorted(folder.iterdir())[count:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    return folder


def test_a_rounded_quaternion_stops_nothing(make, run, tmp_path):
    code, said = command("predict", run, make("quaternion"), "-o", tmp_path / "masks")
    assert code == 0, said
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.nii.gz")) == ["A.nii.gz", "B.nii.gz", "C.nii.gz"]


def test_metres_score_as_millimetres(make, run, tmp_path):
    in_m, said = evaluated(run, first(make("metre"), 1), tmp_path / "m")
    assert "state their sizes in metre (xyzt_units)" in said
    case = next(iter(in_m))[0]
    folder = tmp_path / "mm"
    folder.mkdir()
    (folder / case).symlink_to(GENERATORS / "base" / case)
    in_mm, _ = evaluated(run, folder, tmp_path / "of_mm")
    assert {key: row["dice"] for key, row in in_m.items()} == {key: row["dice"] for key, row in in_mm.items()}
    assert in_m[case, "WT"]["target_ml"] == pytest.approx(in_mm[case, "WT"]["target_ml"], rel=1e-6)


@pytest.mark.parametrize(("name", "words"), [("almost_whole", "read as the whole numbers"), ("one_time_point", "")])
def test_labels_and_time_points_are_read_as_they_are_meant(make, run, tmp_path, name, words):
    found, said = evaluated(run, make(name), tmp_path / "out")
    label = np.asarray(nib.load(GENERATORS / "base" / "BraTS2021_00003" / "BraTS2021_00003_seg.nii.gz").dataobj)
    assert found["a", "ET"]["target_ml"] == pytest.approx((label == 4).sum() * 0.008)
    assert words in said


def test_the_numbers_of_brats_2024_are_those_of_2024(make, cache):
    task, _ = instantiate(make_config("brats2021", [{"data": {"path": str(make("brats2024"))}}], preset="tiny"))
    task.find(print)
    assert {task.convention_of(case).name for case in task.found.cases} == {"brats2024"}
    assert len({case.patient for case in task.found.cases}) == 5


def test_sessions_are_of_one_patient(make):
    data = {"path": str(make("sessions")), "test": 0.3, "validation": 0.2}
    task, _ = instantiate(make_config("brats2021", [{"data": data}], preset="tiny"))
    task.find(print)
    for _, ids in task.default_splits().items():
        assert {id.partition("_")[0] for id in ids} == {id.partition("_")[0] for id in ids if id.endswith("ses-1")}
        assert len(ids) % 2 == 0


def test_one_file_for_two_modalities_is_refused(make, run, tmp_path):
    folder = make("same_file_twice") / "a"
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes((folder / "a_t1.nii.gz").read_bytes())
    for file in (folder / "a_t1.nii.gz", copy):
        files = {m: folder / f"a_{m}.nii.gz" for m in ROLES[:4]} | {"t1ce": file}
        words = [word for m, path in files.items() for word in (f"--{m}", path)]
        code, said = command("predict", run, *words, "-o", tmp_path / "mask.nii.gz")
        assert code == 1
        assert "t1 and t1ce hold the same voxels" in said
        assert not (tmp_path / "mask.nii.gz").exists()


def test_what_labels_of_a_run_mean_is_not_carried_to_other_data(make, tmp_path, cache):
    folder = make("labels_of_the_run")
    words = ("--task", "brats2021", "--preset", "tiny", "--strategy", "joint", "--data", folder / "cases.json")
    code, said = command("train", *words, "--out", tmp_path / "run", *settings(cache, **{"task.labels": "msd"}))
    assert code == 0, said
    found, said = evaluated(tmp_path / "run", folder / "b23", tmp_path / "out")
    assert "labels numbered as in brats2023" in said
    label = np.asarray(nib.load(next((folder / "b23").glob("*00000-000/*-seg.nii.gz"))).dataobj)
    assert found["BraTS-GLI-00000-000", "TC"]["target_ml"] == pytest.approx(np.isin(label, (1, 3)).sum() * 0.008)


def test_no_mask_replaces_a_scan(make, run):
    folder = make("overwrite") / "a"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    words = [word for m in ROLES[:4] for word in (f"--{m}", folder / f"a_{m}.nii.gz")]
    code, said = command("predict", run, *words, "-o", folder / "a_flair.nii.gz")
    assert code == 1
    assert "a_flair.nii.gz is read as well as written" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_table_scores_the_mask_that_is_written(make, run, tmp_path):
    folder = first(make("score_of_the_mask"), 1)
    found, _ = evaluated(run, folder, tmp_path / "out")
    assert command("predict", run, folder, "-o", tmp_path / "masks")[0] == 0
    mask = np.asarray(nib.load(tmp_path / "masks" / "case3.nii.gz").dataobj)
    for region, numbers in {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}.items():
        assert found["case3", region]["predicted_ml"] == pytest.approx(np.isin(mask, numbers).sum() * 0.008)


def test_t1_before_contrast_is_not_t1_with_it(make, run, tmp_path):
    pytest.importorskip("pydicom")
    words = ("-o", tmp_path / "m.nii.gz", "--modalities", "flair,t1ce,t2")
    code, said = command("predict", run, make("before_contrast"), *words)
    assert code == 1
    assert "no series found for t1ce" in said
    assert "series 3: t1," in said


def test_a_raw_folder_of_nnunet_is_read_once_its_labels_are_known(make):
    with pytest.raises(DataError, match=r"\(nnunet_v2\) leaves open what only you know.*\n  what the numbers"):
        read_any(make("nnunet_raw"), need_labels=True)


@pytest.fixture(scope="module")
def company(made, tmp_path_factory):
    """The sound cases of the generators, except those that faults befall and are taken from."""
    _, clinic, _ = made
    sources = [source for k, source in enumerate(clinic.base()) if k not in (1, 7)]
    cases = {source.name: {role: clinic.load(role, source) for role in ROLES} for source in sources}
    return Cohort.of(tmp_path_factory.mktemp("company"), cases)


def test_what_goes_wrong_in_a_clinic_is_found(made, company):
    _, clinic, _ = made
    faulty, other = ({role: clinic.load(role, clinic.base()[k]) for role in ROLES} for k in (1, 7))
    silent = set()
    for (name, fault), by in itertools.product(clinic.FAULTS.items(), ("train", "predict")):
        if by == "predict" and name.startswith("label"):
            continue  # which sees no label
        answer = getattr(company, by)("faulty", fault.change(faulty, other))
        if getattr(fault, by) == "cannot":
            assert answer.outcome == "nothing", f"{name}, {by}: {answer}"
        elif answer.outcome == "nothing":
            silent.add(name)
    assert silent <= HARD
