"""``init``: a list that is read after its questions are settled, or one line that says why there is none."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from cggm_med.cli.app import app
from cggm_med.data.folders.declared import read_declared
from cggm_med.data.volumes.io import write_volume
from cggm_med.errors import CggmMedError, ConfigError, DataError, OutputError
from cggm_med.metrics.lesion_areas import LesionRules
from cggm_med_tasks.brats2021 import BraTS2021


@pytest.fixture
def folder(tmp_path):
    """A datalist of two cases, whose images it does not name and whose labels it does not explain."""
    entries = []
    for id in ("p1", "p2"):
        for name in ("flair", "adc", "seg"):
            volume = np.zeros((4, 4, 2), np.uint8)
            volume[0, 0, 0] = 3
            write_volume(tmp_path / "scans" / f"{id}_{name}.nii.gz", volume, np.eye(4))
        entries.append({"image": [f"{id}_flair.nii.gz", f"{id}_adc.nii.gz"], "label": f"{id}_seg.nii.gz"})
    (tmp_path / "scans" / "folds.json").write_text(json.dumps({"training": entries}))
    return tmp_path / "scans"


def init(*words):
    return CliRunner().invoke(app, ["init", *map(str, words)])


def test_what_is_written_is_read_once_it_is_settled(folder, tmp_path):
    out = tmp_path / "dataset.json"
    done = init(folder, "-o", out, "--name", "ms", "--json", out.with_name("shown.json"))
    assert done.exit_code == 0, done.output
    assert "what 3 means" in done.output
    assert f'wrote {out}; write what you know in the place of each "?"' in done.output
    assert "cggm-med train --task segmentation --data" in done.output
    shown, written = (json.loads(file.read_text()) for file in (out.with_name("shown.json"), out))
    assert shown["open"] == written["questions"]
    assert [row["modality"] for row in shown["tables"][0]["rows"]] == list(written["modalities"])
    assert (written["name"], written["labels"], len(written["questions"])) == ("ms", {"3": "?"}, 2)
    with pytest.raises(DataError, match='label 3 has the meaning "\\?"'):
        read_declared(out)
    written["labels"]["3"] = "lesion"
    out.write_text(json.dumps(written))
    with pytest.raises(DataError, match="has open questions; settle each"):
        read_declared(out)
    out.write_text(json.dumps({**written, "questions": []}))
    declaration, cases = read_declared(out)
    assert declaration.regions == ("lesion",)
    assert [case.images["adc"].path.name for case in cases.cases] == ["p1_adc.nii.gz", "p2_adc.nii.gz"]


def test_lesion_rules_of_the_challenge_come_with_its_numbers(tmp_path):
    """The rules that task brats2021 has, from the same place; without them a dilation of 3 would be missing."""
    volume = np.zeros((4, 4, 2), np.uint8)
    volume[0, 0] = 1, 3
    for name in ("t1n", "t1c", "t2w", "t2f", "seg"):
        write_volume(tmp_path / "BraTS-SSA-00002-000" / f"BraTS-SSA-00002-000-{name}.nii.gz", volume, np.eye(4))
    done = init(tmp_path, "-o", tmp_path / "dataset.json")
    assert "the mask dilated 3 times are a lesion, which does not count up to 50 mm3" in " ".join(done.output.split())
    declaration, _ = read_declared(tmp_path / "dataset.json")
    assert declaration.lesion_rules == BraTS2021.lesion_rules == LesionRules(dilations=3, min_mm3=50)


def test_nothing_is_written_without_a_name_or_over_a_file(folder, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert "nothing was written" in init(folder).output
    assert sorted(tmp_path.rglob("*")) == before
    out = tmp_path / "dataset.json"
    assert isinstance(init(folder, "-o", tmp_path / "list.txt").exception, ConfigError)
    assert init(folder, "-o", out).exit_code == 0
    written = out.read_text()
    assert "overwrite it with --force" in str(init(folder, "-o", out).exception)
    out.write_text(written.replace('"training"', '"test"'))
    assert init(folder, "-o", out, "--force").exit_code == 0
    assert out.read_text() == written


@pytest.mark.parametrize("content", ["mine", '{"channel_names": {"0": "T1"}}', "[]"])
def test_force_never_overwrites_what_another_tool_wrote(folder, tmp_path, content):
    """Such as the dataset.json of nnU-Net, from which the folder itself is read."""
    out = tmp_path / "dataset.json"
    out.write_text(content)
    done = init(folder, "-o", out, "--force")
    assert isinstance(done.exception, OutputError)
    assert "this command did not write it" in str(done.exception)
    assert out.read_text() == content


def test_a_refusal_is_one_line_and_writes_nothing(folder, tmp_path):
    (folder / "p2_adc.nii.gz").unlink()
    done = init(folder, "-o", tmp_path / "dataset.json")
    assert isinstance(done.exception, DataError)
    assert "1 files that folds.json names do not exist: training[1]: p2_adc.nii.gz" in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "dataset.json").exists()
    assert isinstance(init(tmp_path / "absent").exception, CggmMedError)
