"""Declared lists: cases with the images that each has, and one line for everything that is missing."""

import json

import pytest

from cggm_med.data.cases import Case, ImageFile, RegionFile
from cggm_med.data.declaration import Declaration, Modality
from cggm_med.data.folders.declared import read_declared
from cggm_med.data.folders.label_entries import to_json
from cggm_med.data.folders.proposal import Labels, Proposal
from cggm_med.errors import DataError, UnknownName

DECLARED = {"modalities": {"flair": "mri", "adc": "map"}, "labels": {"1": "lesion"}}


@pytest.fixture
def written(tmp_path):
    """Write a list and the files that it names."""

    def write(*training, **other):
        for entry in [*training, *other.get("test", [])]:
            for key, given in entry.items():
                file = given.get("file") if isinstance(given, dict) else given
                if key in ("flair", "adc", "label") and isinstance(file, str) and file != "absent.nii":
                    (tmp_path / file).touch()
        (tmp_path / "dataset.json").write_text(json.dumps({**DECLARED, "training": training, **other}))
        return tmp_path

    return write


def test_a_case_has_what_it_names(written):
    folder = written(
        {"id": "b10", "flair": "b.nii", "label": "bl.nii", "fold": 1},
        {"id": "b9", "patient": "p", "flair": {"file": "c.nii", "channel": 1}, "adc": "d.nii", "label": "cl.nii"},
    )
    declaration, found = read_declared(folder)
    assert list(declaration.modalities) == ["flair", "adc"]
    assert [case.id for case in found.cases] == ["b9", "b10"]
    first, second = found.cases
    assert first.images == {"flair": ImageFile(folder / "c.nii", 1), "adc": ImageFile(folder / "d.nii")}
    assert (first.patient, second.patient, second.fold) == ("p", "b10", "1")
    assert set(second.images) == {"flair"}
    assert found.sections is None


def test_the_label_may_be_one_of_the_readers_maps(written):
    folder = written({"id": "a", "flair": "a.nii", "label": "l.nii"})
    (folder / "m.nii").touch()
    content = json.loads((folder / "dataset.json").read_text())
    content["training"][0]["raters"] = {"1": "l.nii", "2": "m.nii"}
    (folder / "dataset.json").write_text(json.dumps(content))
    _, found = read_declared(folder)
    assert found.cases[0].raters["1"] == found.cases[0].label
    (folder / "m.nii").unlink()
    with pytest.raises(DataError, match=r"label of 2 does not exist"):
        read_declared(folder)


def test_each_region_may_have_a_file_of_its_own(written, tmp_path):
    labels, regions = {"1": "core", "2": "rim"}, {"all": [1, 2], "core": [1]}
    for name in ("c.nii", "w.nii", "m.nii"):
        (tmp_path / name).touch()
    by_region = {"core": {"file": "c.nii", "value": 7}, "all": "w.nii"}
    by_meaning = {"rim": {"file": "m.nii", "channel": 1, "value": 2}, "core": None}
    folder = written(
        {"id": "a", "flair": "a.nii", "label": by_region, "raters": {"1": by_meaning, "2": "m.nii"}},
        {"id": "b", "flair": "b.nii", "label": {"all": "w.nii"}, "not_drawn": ["core"]},
        labels=labels,
        regions=regions,
    )
    _, found = read_declared(folder)
    first, second = found.cases
    assert first.label.files == (
        ("all", RegionFile(folder / "w.nii")),
        ("core", RegionFile(folder / "c.nii", value=7)),
    )
    assert first.raters["1"].files == (("core", None), ("rim", RegionFile(folder / "m.nii", 1, 2)))
    assert second.label.files == (("all", RegionFile(folder / "w.nii")),)
    again = to_json(first.label, folder), to_json(first.raters["1"], folder)
    assert again == ({"all": "w.nii", "core": by_region["core"]}, {"core": None, "rim": by_meaning["rim"]})
    for label, message in [
        ({"core": "c.nii"}, 'names no file for all; write null where none of it is there, or list it in "not_drawn"'),
        ({"core": "c.nii", "rim": "m.nii", "all": "w.nii"}, "names files for all; expected the regions all, core, or"),
    ]:
        with pytest.raises(DataError, match=message):
            read_declared(written({"id": "a", "flair": "a.nii", "label": label}, labels=labels, regions=regions))


def test_scans_without_labels_need_not_say_what_labels_mean_where_a_run_knows(written):
    folder = written({"id": "a", "flair": "a.nii"}, labels={})
    with pytest.raises(DataError, match="has no label, which training needs"):
        read_declared(folder, need_labels=False)
    run = Declaration.from_json({**DECLARED, "labels": {"7": "core"}}, "here")
    declaration, found = read_declared(folder, need_labels=False, run=run)
    assert (declaration.regions, list(declaration.modalities)) == (("core",), ["flair", "adc"])
    assert [case.id for case in found.cases] == ["a"]
    labelled = written({"id": "a", "flair": "a.nii", "label": "l.nii"}, labels={})
    with pytest.raises(DataError, match="expected the meaning of each number"):  # these may be other labels
        read_declared(labelled, need_labels=False, run=run)


def test_sections_are_splits_and_tests_need_no_label(written):
    _, found = read_declared(
        written({"id": "a", "flair": "a.nii", "label": "l.nii"}, test=[{"id": "b", "flair": "b.nii"}])
    )
    assert found.sections == {"training": ("a",), "test": ("b",)}
    assert found.cases[1].label is None


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "a", "label": "l.nii"}, "a: no image of any modality"),
        ({"id": "a", "flair": "absent.nii", "label": "l.nii"}, "flair does not exist"),
        ({"id": "a", "flair": "a.nii"}, "a: no label"),
        ({"id": "../a", "flair": "a.nii"}, "can be a file name"),
        ({"id": "a", "flair": 3}, "flair is 3; expected a path"),
        ({"id": "a", "flair": "a.nii", "adc": "a.nii", "label": "l.nii"}, "adc is the same file as"),
        ({"id": "a", "flair": "a.nii", "label": "a.nii"}, "label is the same file as"),
        ({"id": "a", "flair": "a.nii", "label": 3}, "label is 3; expected a path, or the file of each region"),
        ({"id": "a", "flair": "a.nii", "label": {"x": "l.nii"}}, "names files for x; expected the regions lesion"),
        ({"id": "a", "flair": "a.nii", "label": {"lesion": None}}, "label names no file at all"),
        ({"id": "a", "flair": "a.nii", "label": {"lesion": {"path": "l"}}}, "of lesion is .*expected a path, null"),
        ({"id": "a", "flair": "a.nii", "label": {"lesion": "absent.nii"}}, "label does not exist: .*absent.nii"),
        ({"id": "a", "flair": "a.nii", "label": "l.nii", "convention": "x"}, "\"convention\" is 'x'"),
        ({"id": "a", "flair": "a.nii", "label": "l.nii", "not_drawn": ["x"]}, '"not_drawn" is'),
    ],
)
def test_what_is_missing_is_named(written, entry, message):
    with pytest.raises(DataError, match=message):
        read_declared(written(entry))


def test_required_modalities_and_unknown_keys(written):
    with pytest.raises(DataError, match="a: no adc, which the data set requires"):
        read_declared(written({"id": "a", "flair": "a.nii", "label": "l.nii"}, required=["adc"]))
    with pytest.raises(UnknownName, match="Did you mean 'flair'"):
        read_declared(written({"id": "a", "flare": "a.nii", "label": "l.nii"}))


def test_open_questions_are_settled_before_anything_is_read(written):
    with pytest.raises(DataError, match=r"open questions.*\n.*what 2 means"):
        read_declared(written({"id": "a", "flair": "a.nii", "label": "l.nii"}, questions=["what 2 means"]))


def test_a_proposal_without_questions_is_a_declared_list(tmp_path):
    for name in ("f.nii", "g.nii", "a.nii", "l.nii"):
        (tmp_path / name).touch()
    cases = (
        Case(
            "x",
            "p",
            {"flair": ImageFile(tmp_path / "f.nii"), "adc": ImageFile(tmp_path / "a.nii", 0)},
            tmp_path / "l.nii",
        ),
        Case("y", "q", {"flair": ImageFile(tmp_path / "g.nii")}, None, fold="2"),
    )
    proposal = Proposal(
        "any_names",
        tmp_path,
        "stroke",
        {"flair": Modality(), "adc": Modality("map", "keep_scale")},
        {"": Labels({1: "core", 2: "rim"}, {"all": (1, 2), "core": (1,)}, exclusive=False)},
        cases,
        sections={"training": ("x",), "test": ("y",)},
    )
    assert proposal.lacking() == {"y": ("adc",)}
    (tmp_path / "dataset.json").write_text(json.dumps(proposal.to_json(tmp_path)))
    declaration, found = read_declared(tmp_path)
    assert found.cases == cases
    assert declaration.conventions["stroke"].paint == {"all": 2, "core": 1}
