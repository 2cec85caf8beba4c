"""The command ``change``: masks of two time points, as predict or another tool wrote them."""

import json

import nibabel as nib
import numpy as np
import pytest
from helpers.command_line import command

from cggm_med.inference.side_car import SCHEMA

RULES = {"dilations": 0, "connectivity": 26, "min_mm3": 0.0}


def write(path, *boxes, shape=(40, 12, 12), affine=None, side_car=True, **said):
    """A mask of regions WT (1, 2) and ET (2), with what predict says of it; boxes are (start, size, label)."""
    mask = np.zeros(shape, np.uint8)
    for start, size, value in boxes:
        mask[start : start + size, 2:4, 2:4] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine), path)
    if side_car:
        about = {"schema": SCHEMA, "software": "cggm-med 0.1.0", "weights": "w", "modalities": ["flair"]}
        about |= {"inputs": {"flair": path.parent.name + path.name}, "labels": {"1": "oedema", "2": "rim"}}
        about |= {"regions": {"WT": [1, 2], "ET": [2]}, "lesion_rules": RULES}
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps({**about, **said}))
    return path


def test_one_patient_by_hand(tmp_path, monkeypatch, capsys):
    """WT of 4 slices of 8 mm3 grows to 6 with a rim that is new; another one is gone."""
    earlier = write(tmp_path / "a" / "x.nii.gz", (0, 4, 1), (10, 2, 1))
    later = write(tmp_path / "b" / "y.nii.gz", (0, 4, 1), (4, 2, 2), weights="other")
    command(monkeypatch, "change", earlier, later, "--json", tmp_path / "change.json")
    said = capsys.readouterr().out
    assert "y: the masks were made with different weights: a change may be one of the network" in said
    found = json.loads((tmp_path / "change.json").read_text())
    (case,) = found["cases"]
    wt, et = case["regions"]
    assert (wt["earlier_ml"], wt["later_ml"], wt["change_ml"], wt["change_percent"]) == (0.048, 0.048, 0.0, 0.0)
    assert (wt["grown"], wt["gone"], et["new"]) == (1, 1, 1)
    assert (et["later_ml"], et["change_percent"]) == (0.016, None)
    grown, gone, new = case["lesions"]
    assert (grown["status"], grown["change_ml"], grown["change_percent"]) == ("grown", 0.016, 50.0)
    assert (gone["status"], gone["earlier"], gone["later"], gone["right_mm"]) == ("gone", [2], [], 10.5)
    assert (new["region"], new["superior_mm"]) == ("ET", 5.0)
    assert "1 > 1" in said
    # The file beside a mask, the folder and its table mean the same.
    for words in ((tmp_path / "a" / "x.json", tmp_path / "b"), (tmp_path / "a", tmp_path / "b" / "cohort.csv")):
        (tmp_path / "b" / "cohort.csv").write_text("case,present\n")
        command(monkeypatch, "change", *words, "--json", tmp_path / "change.json")
        assert json.loads((tmp_path / "change.json").read_text())["cases"] == found["cases"]


def test_many_patients_and_one_that_fails(tmp_path, monkeypatch, capsys):
    for case in ("p1", "p2", "p3"):
        write(tmp_path / "a" / f"{case}.nii.gz", (0, 4, 1))
    write(tmp_path / "b" / "p1.nii.gz", (0, 4, 1), inputs={"flair": "ap1.nii.gz"})
    write(tmp_path / "b" / "p2.nii.gz", (0, 4, 1), shape=(41, 12, 12))
    command(monkeypatch, "change", tmp_path / "a", tmp_path / "b", "--json", tmp_path / "change.json", code=1)
    said = capsys.readouterr()
    assert "1 have a mask at one time point only: p3" in said.out
    assert "p1: both masks were made from the same file of flair: are these two time points?" in said.out
    assert "p2 FAILED: p2: earlier" in said.out
    assert "1 of 2 cases failed" in said.err
    found = json.loads((tmp_path / "change.json").read_text())
    assert ([of["case"] for of in found["cases"]], found["alone"], list(found["failed"])) == (["p1"], ["p3"], ["p2"])
    assert found["cases"][0]["regions"][0]["same"] == 1


def test_what_is_not_in_one_space(tmp_path, monkeypatch, capsys):
    earlier = write(tmp_path / "a.nii.gz", (0, 4, 1))
    finer = write(tmp_path / "b.nii.gz", (0, 8, 1), shape=(80, 12, 12), affine=np.diag([0.5, 1.0, 2.0, 1.0]))
    command(monkeypatch, "change", earlier, finer, code=1)
    said = capsys.readouterr().err
    assert "differ in shape: 40 x 12 x 12 and 80 x 12 x 12" in said
    assert "register the scans of one time point to those of the other" in said
    command(monkeypatch, "change", earlier, finer, "--registered", "--json", tmp_path / "change.json")
    (wt, _) = json.loads((tmp_path / "change.json").read_text())["cases"][0]["regions"]
    assert (wt["earlier_ml"], wt["later_ml"], wt["same"]) == (0.032, 0.032, 1)

    away = np.diag([1.0, 1.0, 2.0, 1.0])
    away[0, 3] = 100
    command(
        monkeypatch, "change", earlier, write(tmp_path / "c.nii.gz", (0, 4, 1), affine=away), "--registered", code=1
    )
    assert "at most 0% of one mask's grid lies on the other's, expected at least 50%" in capsys.readouterr().err
    command(monkeypatch, "change", earlier, write(tmp_path / "d.nii.gz", (12, 4, 1)))
    assert "d: no lesion of one mask touches any of the other: are both in one space?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"regions": {"WT": [1, 2]}}, "the masks have the regions WT, ET and WT; expected the same in both"),
        ({"lesion_rules": {**RULES, "dilations": 3}}, "lesions are counted by different rules"),
        ({"schema": 0}, "b.json has schema 0, expected 1; predict it again"),
        ({"labels": {"1": "oedema"}}, "b.json is damaged"),
        ({"regions": 5}, "b.json is damaged"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused_in_a_line(tmp_path, monkeypatch, capsys, changed, message):
    earlier, later = write(tmp_path / "a.nii.gz", (0, 4, 1)), write(tmp_path / "b.nii.gz", (0, 4, 2), **changed)
    command(monkeypatch, "change", earlier, later, "--json", tmp_path / "change.json", code=1)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "change.json").exists()


def test_masks_of_another_tool(tmp_path, monkeypatch, capsys):
    masks = [write(tmp_path / f"{name}.nii.gz", (0, n, 1), side_car=False) for name, n in (("a", 4), ("b", 6))]
    command(monkeypatch, "change", *masks, code=1)
    assert "nothing says what its numbers mean; say it with --labels" in capsys.readouterr().err
    command(monkeypatch, "change", *masks, "--labels", "brats2121", code=1)
    assert "no label convention 'brats2121'. Did you mean 'brats2021'?" in capsys.readouterr().err
    command(monkeypatch, "change", *masks, "--labels", "brats2021", "--json", tmp_path / "change.json")
    found = json.loads((tmp_path / "change.json").read_text())
    assert found["lesion_rules"] == {"dilations": 3, "connectivity": 26, "min_mm3": 50.0}
    volumes = {of["region"]: of["later_ml"] for of in found["cases"][0]["regions"]}
    assert volumes == {"WT": 0.048, "TC": 0.048, "ET": 0.0}
    assert found["cases"][0]["lesions"] == []  # 48 mm3 do not count there

    # What this command did not write it does not replace.
    (tmp_path / "mine.json").write_text("{}")
    command(monkeypatch, "change", *masks, "--labels", "brats2021", "--json", tmp_path / "mine.json", code=1)
    assert "this command did not write it" in capsys.readouterr().err
    command(monkeypatch, "change", masks[0], tmp_path / "nothing.nii.gz", code=1)
    assert "nothing.nii.gz does not exist" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    command(monkeypatch, "change", tmp_path / "empty", masks[0], code=1)
    assert "empty holds no mask" in capsys.readouterr().err
