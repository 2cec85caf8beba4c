"""Task brats2021: what a label's numbers mean is known of each case, by its release; where it is not, it is asked."""

import nibabel as nib
import numpy as np
import pytest
from helpers.nifti import write

from cggm_med.data.folders.inspection import inspect_proposal
from cggm_med.data.folders.propose import propose
from cggm_med.data.volumes.phantom.cases import make_case
from cggm_med.errors import ConfigError, DataError
from cggm_med.files import write_json
from cggm_med.runs.settings import instantiate, make_config
from cggm_med_tasks.brats2021 import CONVENTIONS

ENDS_2021 = {"flair": "_flair", "t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "label": "_seg"}
ENDS_2023 = {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "label": "-seg"}
TO_2023 = np.array([0, 1, 2, 0, 3], np.uint8)


def case_of(folder, id, values, ends=ENDS_2023):
    """A case whose label holds these values, each in one voxel; of its images there are only the names."""
    voxels = np.zeros((4, 4, 2), np.uint8)
    voxels.flat[: len(values)] = values
    write(folder / f"{id}{ends['label']}.nii.gz", voxels, np.eye(4))
    for modality in ("flair", "t1", "t1ce", "t2"):
        (folder / f"{id}{ends[modality]}.nii.gz").touch()


def task_of(folder, **task):
    settings = {"data": {"path": str(folder), "workers": 0, "patch_size": [16, 16, 16], "spacing": [5, 5, 5]}}
    settings["data"]["cache"] = str(folder.parent / "cache")
    made, _ = instantiate(make_config("brats2021", [settings, {"task": task}], preset="tiny"))
    return made


def enhancing(folder, **task):
    """The numbers of enhancing tumour, by case."""
    made = task_of(folder, **task)
    made.find(lambda line: None)
    return {case.id: made.convention_of(case).regions["ET"] for case in made.found.cases}


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """Four patients: under the names and numbers of 2021, and in another folder two of them under those of 2023."""
    folder = tmp_path_factory.mktemp("releases")
    for i in range(4):
        case = make_case(3, i, (48, 48, 32), 5.0)
        for name, later in (("all_2021", False), ("mixed", i in (1, 2))):
            ends = ENDS_2023 if later else ENDS_2021
            id = f"BraTS-GLI-{i:05d}-000" if later else f"BraTS2021_{i:05d}"
            labels = TO_2023[case.labels] if later else case.labels
            for kind, array in {**case.images, "label": labels}.items():
                write(folder / name / id / f"{id}{ends[kind]}.nii.gz", array, np.diag([-5.0, -5.0, 5.0, 1.0]))
    return folder


def test_releases_side_by_side_are_learned_as_if_all_were_of_one(releases):
    """The same patients under one release's numbers and under two: the same images and targets, bit for bit."""
    lines, tasks = [], []
    for name in ("all_2021", "mixed"):
        task = task_of(releases / name)
        ids = task.find(lines.append)
        task.prepare(task.default_splits(), lines.append)
        tasks.append([task.cases[id] for id in sorted(ids, key=lambda id: id[-5:] if "2021" in id else id[10:15])])
    for one, other in zip(*tasks, strict=True):
        np.testing.assert_array_equal(one.target(), other.target())
        np.testing.assert_array_equal(one.image(), other.image())
        enhancing_voxels = int((np.asarray(nib.load(one.source.label).dataobj) == 4).sum())
        assert other.target()[2].sum() == enhancing_voxels > 0
    assert "labels numbered as in brats2021 (2 cases) and brats2023 (2 cases)" in lines[-1]
    (table,) = task.overview()
    assert table.rows[1][:3] == ("brats2023", "0 background, 1 necrotic core, 2 oedema, 3 enhancing tumour", "2")
    assert task.rules()["regions"] == (
        "WT = [1, 2, 4]; TC = [1, 4]; ET = [4] (labels of brats2021, 2 of 4 cases); "
        "WT = [1, 2, 3]; TC = [1, 3]; ET = [3] (labels of brats2023, 2 of 4 cases)"
    )
    assert task.facts()["conventions"] == {
        "brats2021": ["BraTS2021_00000", "BraTS2021_00003"],
        "brats2023": ["BraTS-GLI-00001-000", "BraTS-GLI-00002-000"],
    }


def test_a_patient_of_two_releases_is_never_in_two_splits(tmp_path):
    case_of(tmp_path, "BraTS2021_00005", (1, 2, 4), ENDS_2021)
    case_of(tmp_path, "BraTS-GLI-00005-000", (1, 2, 3))
    case_of(tmp_path, "BraTS2021_00006", (1, 2, 4), ENDS_2021)
    task = task_of(tmp_path)
    task.find(print)
    assert {case.id: case.patient for case in task.found.cases} == {
        "BraTS2021_00005": "BraTS-GLI-00005",
        "BraTS-GLI-00005-000": "BraTS-GLI-00005",
        "BraTS2021_00006": "BraTS2021_00006",
    }


def test_a_convention_that_is_asked_for_against_the_names_is_told(tmp_path):
    case_of(tmp_path, "BraTS-GLI-00005-100", (1, 2, 3, 4))
    said = []
    task_of(tmp_path, labels="brats2013").find(said.append)
    (line,) = said
    assert line.endswith(
        "as in brats2013 (task.labels); by their names, those of BraTS-GLI-00005-100 are as in brats2024"
    )
    task_of(tmp_path, labels="brats2024").find(said.append)
    assert said == [line]


@pytest.mark.parametrize(
    ("ids", "patients", "ends"),
    [
        (("sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"), ("sub-01", "sub-01", "sub-02"), ENDS_2021),
        (("P1_2019-03-12", "P1_2020-01-02", "P2_2019-03-12"), ("P1", "P1", "P2"), ENDS_2021),
        (("A_11", "A_21", "B_11", "B_21", "C_11"), ("A", "A", "B", "B", "C"), ENDS_2021),
        (("BraTS-GLI-00001-000", "BraTS-GLI-00001-001"), ("BraTS-GLI-00001", "BraTS-GLI-00001"), ENDS_2023),
        (("Site-001", "Site-002", "Site-003"), ("Site-001", "Site-002", "Site-003"), ENDS_2023),  # no time points
    ],
)
def test_visits_are_of_one_patient_and_patients_are_no_visits(tmp_path, ids, patients, ends):
    for id in ids:
        case_of(tmp_path, id, (1, 2), ends)
    task = task_of(tmp_path, labels="brats2021")
    task.find(print)
    assert [case.id for case in task.found.cases] == list(ids)
    assert tuple(case.patient for case in task.found.cases) == patients


@pytest.mark.parametrize(
    ("id", "values", "number"),
    [
        ("BraTS-GLI-00001-000", (1, 2, 3), 3),
        ("BraTS-GLI-00005-100", (1, 2, 3, 4), 3),
        ("BraTS-SSA-00001-000", (1, 2, 3), 3),
        ("BraTS-MEN-00001-000", (1, 2, 3), 3),
        ("BraTS-MET-00001-000", (3, 4), 3),
        ("BraTS-PED-00001-000", (1, 2, 3, 4), 1),
        ("MEN-7", (1, 2, 3), 3),  # of nobody: its files end as those of 2023
    ],
)
def test_where_enhancing_tumour_is(tmp_path, id, values, number):
    """Each release beside a case of 2021, where it is 4."""
    case_of(tmp_path, id, values)
    case_of(tmp_path, "BraTS2021_00000", (1, 2, 4), ENDS_2021)
    assert enhancing(tmp_path) == {id: (number,), "BraTS2021_00000": (4,)}


def test_the_release_counts_not_the_endings_of_names(tmp_path):
    """Renamed but not renumbered: the numbers of 2021 are not read as those of 2023."""
    case_of(tmp_path, "BraTS2021_00000", (1, 2, 4))
    assert enhancing(tmp_path) == {"BraTS2021_00000": (4,)}


@pytest.mark.parametrize(
    ("cases", "asked"),
    [
        ({"BraTS-PED-00002-000": (1, 2, 3)}, "fit several releases: BraTS-PED 2023: 1 non-enhancing component, 2"),
        ({"BraTS-GLI-00002-000": (1, 2, 4)}, "what 4 means: resection cavity in BraTS 2024 GLI, after treatment, but"),
        ({"BraTS2021_00002": (1, 2, 3)}, "the names are those of BraTS 2017 to 2021, which has 1, 2 and 4 alone"),
        ({"prostate_01": (1, 2)}, "what the labels of prostate_01 mean here: they are of another kind than glioma"),
    ],
)
def test_where_it_is_open_one_line_asks(tmp_path, cases, asked):
    for id, values in cases.items():
        case_of(tmp_path, id, values)
    case_of(tmp_path, "BraTS2021_00000", (1, 2, 4), ENDS_2021)
    if "BraTS2021_00002" in cases:
        (tmp_path / "BraTS2021_00000_seg.nii.gz").unlink()
        case_of(tmp_path, "BraTS2021_00000", (3,), ENDS_2021)
    with pytest.raises(DataError) as caught:
        enhancing(tmp_path)
    message = str(caught.value)
    assert asked in message
    *_, summary = message.partition("say it with --set task.labels=NAME:\n")
    assert summary.splitlines() == [f"  {name}: {of.describe()}" for name, of in CONVENTIONS.items()]
    assert set(enhancing(tmp_path, labels="brats2023").values()) == {(3,)}


def test_every_release_of_glioma_has_a_convention_with_its_numbers():
    for name, convention in CONVENTIONS.items():
        assert convention.name == name
        assert tuple(convention.regions) == ("WT", "TC", "ET")


def test_data_that_declare_their_labels_are_read_by_their_meaning(releases, tmp_path):
    """A region whose name is the task's and whose tissues are not is refused, whatever its numbers."""
    content = inspect_proposal(propose(releases / "mixed")).proposal.to_json(tmp_path)
    write_json(tmp_path / "dataset.json", content)
    expected = {"BraTS2021_00000": (4,), "BraTS2021_00003": (4,)}
    expected |= {"BraTS-GLI-00001-000": (3,), "BraTS-GLI-00002-000": (3,)}
    assert enhancing(tmp_path) == expected
    with pytest.raises(ConfigError, match="task.labels is msd, but .* declares its labels itself; leave it out"):
        enhancing(tmp_path, labels="msd")
    until_2021 = content["conventions"]["BraTS 2017 to 2021"]
    until_2021["regions"]["TC"], until_2021["paint"] = [2, 4], {"WT": 1, "TC": 2, "ET": 4}
    write_json(tmp_path / "dataset.json", content)
    with pytest.raises(DataError, match="region TC means enhancing tumour, necrotic core in the run and .*, oedema in"):
        enhancing(tmp_path)
