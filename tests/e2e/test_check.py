"""`cggm-med check` lists what training would see, and trains nothing."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from cggm_med.cli.app import app


@pytest.fixture
def odd(phantom, tmp_path):
    """The phantom; one case with T1 given for T1ce too, one with FLAIR mirrored, one with a label number unknown."""
    folder = tmp_path / "odd"
    shutil.copytree(phantom, folder)
    a, b, c = sorted(folder.iterdir())[:3]
    shutil.copyfile(a / f"{a.name}_t1.nii.gz", a / f"{a.name}_t1ce.nii.gz")
    for path, change in (
        (b / f"{b.name}_flair.nii.gz", lambda v: v[:, ::-1]),
        (c / f"{c.name}_seg.nii.gz", lambda v: np.where(v == 4, 3, v)),
    ):
        scan = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asarray(scan.dataobj)), scan.affine, scan.header), path)
    return folder, a.name, b.name, c.name


def run(*words):
    return CliRunner().invoke(app, ["check", *map(str, words)])


def test_everything_is_listed_and_the_exit_code_tells_whether_it_forbids(odd, phantom, cache, tmp_path):
    folder, twice, mirrored, unknown = odd
    words = ("--task", "brats2021", "--set", f"data.cache={cache}", "--set", "data.workers=0")
    ended = run(folder, *words, "--json", tmp_path / "found.json", "--html", tmp_path / "found.html")
    assert ended.exit_code == 1, ended.output
    found = json.loads((tmp_path / "found.json").read_text())
    kinds = {(of["kind"], of["case"]) for of in found["findings"]}
    assert {("repeated_image", twice), ("mirrored_image", mirrored)} <= kinds
    assert ("unusable", unknown) in kinds
    page = (tmp_path / "found.html").read_text()
    assert page.count("data:image/png") >= 2
    assert "repeated_image" in page
    assert not list(tmp_path.glob("runs*"))
    assert "findings: 2 refused, 1 asked" in ended.output

    sound = run(phantom, *words, "--json", tmp_path / "sound.json")
    assert sound.exit_code == 0, sound.output
    assert json.loads((tmp_path / "sound.json").read_text())["findings"] == []
    assert "what to do" not in sound.output  # no empty table


def test_one_patient_is_checked_though_it_cannot_be_divided(phantom, cache, tmp_path):
    name = sorted(path.name for path in phantom.iterdir())[0]
    shutil.copytree(phantom / name, tmp_path / "one" / name)
    words = ("--task", "brats2021", "--set", f"data.cache={cache}", "--set", "data.workers=0")
    ended = run(tmp_path / "one", *words)
    assert ended.exit_code == 1
    assert "1 patient is too few" in " ".join(ended.output.split())
    assert "1 case, 1 finding: 1 refused" in ended.output


def test_results_replace_no_file_of_others(phantom, tmp_path):
    for option, name in (("--json", "dcm2niix.json"), ("--html", "notes.html")):
        theirs = tmp_path / name
        theirs.write_text("{}")
        ended = run(phantom, "--task", "brats2021", option, theirs)
        assert ended.exit_code == 1
        assert "this command did not write it" in str(ended.exception)
        assert theirs.read_text() == "{}"
