"""A run scored on cases of another convention: what is compared is what the numbers mean, or it is refused."""

import json

import nibabel as nib
import numpy as np
import pytest
from helpers.command_line import command, set_options
from helpers.nifti import write
from helpers.small_runs import small_settings

ENDS = {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "seg": "-seg"}
TO_2013 = np.array([0, 1, 2, 0, 4], np.uint8)
TO_2023 = np.array([0, 1, 2, 0, 3], np.uint8)


@pytest.fixture(scope="module")
def data(phantom, tmp_path_factory):
    """The phantom's patients as a list that does not say what its numbers mean, and as a folder of BraTS 2023."""
    folder = tmp_path_factory.mktemp("conventions")
    entries = []
    for i, case in enumerate(sorted(path for path in phantom.iterdir())):
        files = {kind: nib.load(case / f"{case.name}_{kind}.nii.gz") for kind in ENDS}
        entry = {"id": f"p{i}"}
        for kind, file in files.items():
            voxels = np.asarray(file.dataobj)
            role = "label" if kind == "seg" else kind
            entry[role] = str(write(folder / "old" / f"p{i}_{kind}.nii.gz", voxels, file.affine))
            voxels = TO_2023[voxels] if kind == "seg" else voxels
            write(folder / "new" / f"BraTS-GLI-{i:05d}-000{ENDS[kind]}.nii.gz", voxels, file.affine)
        entries.append(entry)
    for name in ("list", "other"):
        sections = {"training": entries[2:], "validation": entries[1:2], "test": entries[:1]}
        (folder / f"{name}.json").write_text(json.dumps(sections))
    return folder


@pytest.fixture(scope="module")
def run(data, cache, tmp_path_factory):
    """Trained for a step on the list, of which it was said that its numbers are those of 2013: 3 is another tissue."""
    folder = tmp_path_factory.mktemp("run") / "run"
    # After one step the network still finds every region somewhere, so that no score is 0 by itself.
    changes = {"task__labels": "brats2013", "train__epochs": "1", "train__steps_per_epoch": "1"}
    flags = set_options(small_settings(data / "list.json", cache, **changes))
    with pytest.MonkeyPatch.context() as patch:
        command(patch, "train", "--preset", "tiny", "--out", folder, *flags)
    return folder


def scores(monkeypatch, run, data, out, *words):
    command(monkeypatch, "evaluate", run, "--data", data, "--split", "all", "--out", out, *words)
    return json.loads((out / "results.json").read_text())


def test_what_was_said_of_the_run_s_labels_is_not_carried_to_a_layout_that_says_otherwise(
    run, data, tmp_path, monkeypatch
):
    """Read by the numbers of 2013, the enhancing tumour of a case of 2023 would be empty."""
    found = scores(monkeypatch, run, data / "new", tmp_path / "new")
    assert found["rules"]["regions"] == "WT = [1, 2, 3]; TC = [1, 3]; ET = [3] (labels of brats2023)"
    own = scores(monkeypatch, run, data / "list.json", tmp_path / "own")
    assert own["rules"]["regions"].endswith("(labels of brats2013)"), "its own data are read as they were"
    rows = [[{k: v for k, v in row.items() if k != "case"} for row in report["cases"]] for report in (found, own)]
    assert rows[0] == rows[1]

    command(monkeypatch, "predict", run, data / "new", "-o", tmp_path / "masks")
    some = []
    for row in [row for row in found["cases"] if row["region"] == "ET"]:
        drawn = np.asarray(nib.load(data / "new" / f"{row['case']}-seg.nii.gz").dataobj) == 3
        mask = np.asarray(nib.load(tmp_path / "masks" / f"{row['case']}.nii.gz").dataobj) == 4
        by_hand = 2 * (drawn & mask).sum() / (drawn.sum() + mask.sum())
        assert row["dice"] == pytest.approx(by_hand, abs=1e-6)
        some.append(drawn.any())
    assert sum(some) == 5  # one patient has no enhancing tumour
    assert max(row["dice"] for row in found["cases"] if row["region"] == "ET") > 0


def test_data_that_say_nothing_are_asked_about(run, data, tmp_path, monkeypatch, capsys):
    words = ("evaluate", run, "--data", data / "other.json", "--split", "all", "--out", tmp_path / "out")
    command(monkeypatch, *words, code=1)
    assert "the files do not tell what their label numbers mean; say it with --set task.labels=NAME" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    said = scores(monkeypatch, run, data / "other.json", tmp_path / "said", "--set", "task.labels=brats2021")
    assert said["rules"]["regions"].endswith("(labels of brats2021)")


def test_a_declared_list_is_compared_by_its_meanings(run, data, tmp_path, monkeypatch, capsys):
    """Enhancing tumour is 7 in it, and its modalities have other names; a tissue in another region is refused."""
    entries = []
    for entry in json.loads((data / "list.json").read_text())["training"]:
        label = nib.load(entry["label"])
        numbers = np.array([0, 5, 6, 0, 7], np.uint8)[np.asarray(label.dataobj)]
        file = write(tmp_path / f"{entry['id']}.nii.gz", numbers, label.affine)
        entries.append({"id": entry["id"], "label": str(file), "FLAIR": entry["flair"]})
        entries[-1] |= {name: entry[name] for name in ("t1", "t1ce", "t2")}
    content = {
        "name": "ours",
        "modalities": {"FLAIR": {"kind": "mri", "shows": "flair"}, "t1": "mri", "t1ce": "mri", "t2": "mri"},
        "labels": {"5": "necrosis", "6": "oedema", "7": "enhancing tumour"},
        "regions": {"WT": [5, 6, 7], "TC": [5, 7], "ET": [7]},
        "training": entries,
    }
    listing = tmp_path / "ours.json"
    listing.write_text(json.dumps(content))
    found = scores(monkeypatch, run, listing, tmp_path / "ours")
    own = scores(monkeypatch, run, data / "list.json", tmp_path / "own")
    expected = [row for row in own["cases"] if row["case"] in {entry["id"] for entry in entries}]
    assert found["cases"] == expected
    listing.write_text(json.dumps({**content, "regions": {"WT": [5, 6, 7], "TC": [6, 7], "ET": [7]}}))
    command(monkeypatch, "evaluate", run, "--data", listing, "--split", "all", "--out", tmp_path / "no", code=1)
    told = capsys.readouterr().err
    assert "region TC means enhancing tumour, necrotic core in the run and enhancing tumour, oedema in ours" in told
