"""Finding cases: every layout that users have on disk, and every way in which it can be broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cggm_med.data.cases import CaseList, ImageFile, natural_key
from cggm_med.data.layouts import NamedFiles, find_cases, read_json
from cggm_med.errors import DataError, UnknownName

MODALITIES = ("flair", "t1", "t1ce", "t2")
OLD = NamedFiles("brats2021", {m: f"_{m}" for m in MODALITIES}, "_seg", "brats2021", r"(.+)")
NEW = NamedFiles(
    "brats2023",
    {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w"},
    "-seg",
    "brats2023",
    r"(BraTS-\w+-\d+)-\d+$",
)
DECATHLON = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}


def find(
    path: Path,
    modalities: tuple[str, ...] = MODALITIES,
    *,
    need_labels: bool = True,
    required: tuple[str, ...] | None = None,
) -> CaseList:
    return find_cases(
        path,
        modalities,
        (OLD, NEW),
        decathlon_modalities={"flair": "flair", "t1w": "t1", "t1gd": "t1ce", "t2w": "t2"},
        decathlon_convention="msd",
        known_modalities=MODALITIES,
        need_labels=need_labels,
        required=required,
        remedy=", or --allow-missing",
    )


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4)), path)
    return path


def write_old(folder: Path, case_id: str, roles: tuple[str, ...] = (*MODALITIES, "seg"), ext: str = ".nii.gz") -> None:
    for role in roles:
        write(folder / f"{case_id}_{role}{ext}")


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def listed(folder: Path, case_id: str, **changes: object) -> dict[str, object]:
    """A datalist entry whose files exist."""
    entry: dict[str, object] = {"id": case_id}
    for role in (*MODALITIES, "label"):
        write(folder / f"{case_id}-{role}.nii")
        entry[role] = f"{case_id}-{role}.nii"
    return {**entry, **changes}


def problems(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        find(path, **options)
    return str(caught.value)


def test_folder_of_case_folders(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        write_old(tmp_path / f"p_{number}", f"p_{number}")
    found = find(tmp_path, ("t2", "flair"))
    assert [case.id for case in found.cases] == ["p_2", "p_9", "p_10"]
    assert (found.layout, found.label_convention, found.sections) == ("brats2021", "brats2021", None)
    case = found.cases[0]
    assert list(case.images) == ["t2", "flair"], "the order that was asked for"
    assert case.images["t2"] == ImageFile(tmp_path / "p_2" / "p_2_t2.nii.gz")
    assert case.label == tmp_path / "p_2" / "p_2_seg.nii.gz"


def test_layouts_of_one_data_set_give_the_same_cases(tmp_path: Path) -> None:
    """With or without case folders, compressed or not, in any letter case, deep or shallow: the same ids."""
    for k in range(3):
        case_id = f"BraTS-GLI-0000{k}-000"
        for end in (*NEW.suffixes.values(), "-seg"):
            write(tmp_path / "flat" / f"{case_id}{end}.nii")
            write(tmp_path / "deep" / "year" / case_id / f"{case_id}{end}.nii.gz")
            write(tmp_path / "loud" / f"{case_id}{end.upper()}.nii.gz")
    assert len({tuple(case.id for case in find(tmp_path / name).cases) for name in ("flat", "deep", "loud")}) == 1


def test_letter_case_of_copies_in_the_wild(tmp_path: Path) -> None:
    for end in ("t2f", "t1n", "t1c", "t2W", "seg"):
        write(tmp_path / f"BraTS-GLI-00001-000-{end}.nii.gz")
        write(tmp_path / f"brats-gli-00001-001-{end}.nii.gz")
    first, second = find(tmp_path).cases
    assert first.images["t2"].path.name == "BraTS-GLI-00001-000-t2W.nii.gz"
    assert first.patient == second.patient == "BraTS-GLI-00001", "one patient, however it is spelled"


def test_hidden_and_appledouble_files_are_ignored(tmp_path: Path) -> None:
    write_old(tmp_path, "a")
    write(tmp_path / ".trash" / "b_flair.nii.gz")
    (tmp_path / "._a_flair.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "notes_flair.txt").write_text("not an image")
    assert [case.id for case in find(tmp_path).cases] == ["a"]


def test_linked_folders_are_read_once_and_circles_end(tmp_path: Path) -> None:
    write_old(tmp_path / "elsewhere" / "a", "a")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "study" / "0-circle").symlink_to(tmp_path / "study")
    (case,) = find(tmp_path / "study").cases
    assert case.images["t1"].path == tmp_path / "study" / "a" / "a_t1.nii.gz", "not by way of the circle"


def test_longest_suffix_wins() -> None:
    layout = NamedFiles("x", {"t1": "t1", "ct1": "ct1"}, "seg", None, "(.+)")
    assert layout.tell("a_ct1.nii") == ("a_", "ct1")
    assert layout.tell("t1.nii") is None, "nothing is left for the id"
    assert layout.tell("a_t1.json") is None


def test_every_incomplete_case_is_listed_at_once(tmp_path: Path) -> None:
    write_old(tmp_path, "BraTS2021_00003", ("flair", "t1", "t2", "seg"))
    write_old(tmp_path, "BraTS2021_00004", ("flair", "t1", "t1ce", "t2"), ext=".nii")
    write_old(tmp_path, "BraTS2021_00005")
    message = problems(tmp_path)
    assert "BraTS2021_00003: no t1ce (expected BraTS2021_00003_t1ce.nii.gz)" in message
    assert "BraTS2021_00004: no label (expected BraTS2021_00004_seg.nii)" in message
    assert "BraTS2021_00005" not in message


def test_a_case_may_lack_what_is_not_required(tmp_path: Path) -> None:
    write_old(tmp_path / "a", "a")
    write_old(tmp_path / "b", "b", ("t1", "t2", "seg"))
    found = find(tmp_path, required=("t2",))
    assert [list(case.images) for case in found.cases] == [list(MODALITIES), ["t1", "t2"]]
    assert problems(tmp_path, required=("t1ce",)).splitlines()[1:] == ["  b: no t1ce (expected b_t1ce.nii.gz)"]


def test_a_case_without_any_image_of_those_that_are_used_is_always_an_error(tmp_path: Path) -> None:
    write_old(tmp_path, "a")
    write_old(tmp_path, "b", ("t1", "seg"))
    expected = "b: no flair (expected b_flair.nii.gz), no t2 (expected b_t2.nii.gz)"
    with pytest.raises(DataError) as caught:
        find(tmp_path, ("flair", "t2"), required=())
    assert expected in str(caught.value)


def test_the_remedy_is_named_only_where_an_image_is_missing(tmp_path: Path) -> None:
    write_old(tmp_path / "a", "a", MODALITIES)
    assert "these cases:" in problems(tmp_path / "a")
    write_old(tmp_path / "b", "b", ("t1", "seg"))
    assert "these cases, or --allow-missing:" in problems(tmp_path / "b")


def test_entries_of_a_datalist_may_lack_modalities(tmp_path: Path) -> None:
    entries = [listed(tmp_path, "a", t1=None), listed(tmp_path, "b")]
    path = write_json(tmp_path / "list.json", {"training": entries})
    found = find(path, required=())
    assert [list(case.images) for case in found.cases] == [["flair", "t1ce", "t2"], list(MODALITIES)]
    assert "these cases, or --allow-missing:" in problems(path)
    assert "no t1 (expected the key 't1' in training[0])" in problems(path, required=("t1",))
    empty = {"id": "c", "label": "a-label.nii"}
    path = write_json(tmp_path / "list.json", {"training": [*entries, empty]})
    assert "c: no flair (expected the key 'flair' in training[2]), no t1 " in problems(path, required=())


def test_labels_are_optional_where_they_are_not_needed(tmp_path: Path) -> None:
    write_old(tmp_path, "a", MODALITIES)
    write_old(tmp_path, "b")
    assert [case.label is None for case in find(tmp_path, need_labels=False).cases] == [True, False]


def test_unrequested_modalities_may_be_missing(tmp_path: Path) -> None:
    write_old(tmp_path, "a", ("flair", "seg"))
    assert list(find(tmp_path, ("flair",)).cases[0].images) == ["flair"]


def test_same_id_twice_names_both_files(tmp_path: Path) -> None:
    write_old(tmp_path / "copy1", "a")
    write_old(tmp_path / "copy2", "A")
    message = problems(tmp_path)
    assert "a: the same id twice" in message
    assert str(tmp_path / "copy1") in message
    assert str(tmp_path / "copy2") in message


def test_two_files_of_one_modality(tmp_path: Path) -> None:
    write_old(tmp_path, "a")
    write(tmp_path / "a_T1.nii")
    message = problems(tmp_path)
    assert "a: two files of t1:" in message
    assert "a_T1.nii and" in message
    assert "a_t1.nii.gz" in message


def test_layouts_side_by_side_are_one_data_set_in_which_each_case_has_its_convention(tmp_path: Path) -> None:
    write_old(tmp_path / "old", "BraTS2021_00001")
    for end in (*NEW.suffixes.values(), "-seg"):
        write(tmp_path / "new" / f"BraTS-GLI-00002-000{end}.nii")
    found = find(tmp_path)
    assert (found.layout, found.label_convention) == ("brats2021 and brats2023", None)
    conventions = {case.id: case.convention for case in found.cases}
    assert conventions == {"BraTS2021_00001": "brats2021", "BraTS-GLI-00002-000": "brats2023"}
    for case in found.cases:
        assert [*case.images] == [*MODALITIES]
        assert {image.path.name.startswith(case.id) for image in case.images.values()} == {True}
    write(tmp_path / "BraTS-GLI-00003-000-t2f.nii")
    write_old(tmp_path / "again", "brats-gli-00002-000")
    message = problems(tmp_path)
    assert "BraTS-GLI-00003-000: no t1 (expected BraTS-GLI-00003-000-t1n.nii)" in message
    assert "BraTS-GLI-00002-000: the same id twice" in message


def test_a_file_that_fits_two_layouts_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a_t1.nii")
    twin = NamedFiles("twin", {"t1": "t1"}, "-seg", "x", r"(.+)")
    options = {"decathlon_modalities": {}, "decathlon_convention": "msd", "known_modalities": MODALITIES}
    with pytest.raises(DataError, match=r"a_t1\.nii is named as in brats2021 and in twin; give a folder with one"):
        find_cases(tmp_path, ("t1",), (OLD, twin), **options)


def test_patient_that_the_name_does_not_tell(tmp_path: Path) -> None:
    for end in (*NEW.suffixes.values(), "-seg"):
        write(tmp_path / f"scan{end}.nii")
    assert "scan: its patient cannot be told" in problems(tmp_path)


def test_empty_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    message = problems(tmp_path)
    for word in ("brats2021", "_t1ce", "brats2023", "-t2f", "dataset.json", "datalist"):
        assert word in message


def test_paths_that_are_no_data(tmp_path: Path) -> None:
    assert "does not exist" in problems(tmp_path / "nowhere")
    assert "is a file" in problems(write(tmp_path / "a_flair.nii.gz"))


def test_unknown_modality_is_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 't1ce'"):
        find(tmp_path, ("t1c",))


def test_modality_that_the_layout_lacks(tmp_path: Path) -> None:
    write_old(tmp_path, "a")
    layout = NamedFiles("two", {"flair": "_flair"}, "_seg", None, "(.+)")
    options = {"decathlon_modalities": {}, "decathlon_convention": "msd", "known_modalities": MODALITIES}
    with pytest.raises(DataError, match="layout two has no modality t1; it has flair"):
        find_cases(tmp_path, ("t1",), (layout,), **options)


# Medical Segmentation Decathlon


def decathlon(folder: Path, **changes: object) -> Path:
    training = []
    for k in (10, 2):
        write(folder / "imagesTr" / f"BRATS_{k:03}.nii.gz")
        write(folder / "labelsTr" / f"BRATS_{k:03}.nii.gz")
        names = {"image": f"./imagesTr/BRATS_{k:03}.nii.gz", "label": f"./labelsTr/BRATS_{k:03}.nii.gz"}
        training.append(names)
    content = {"name": "BRATS", "modality": DECATHLON, "training": training, "test": ["./imagesTs/BRATS_900.nii.gz"]}
    return write_json(folder / "dataset.json", {**content, **changes})


def test_decathlon_reads_modality_order_from_the_file(tmp_path: Path) -> None:
    listing = decathlon(tmp_path)
    found = find(tmp_path, ("t1ce", "flair"))
    assert found == find(listing, ("t1ce", "flair"))
    assert [case.id for case in found.cases] == ["BRATS_002", "BRATS_010"]
    assert (found.layout, found.label_convention) == ("decathlon", "msd")
    image = tmp_path / "imagesTr" / "BRATS_002.nii.gz"
    assert found.cases[0].images == {"t1ce": ImageFile(image, 2), "flair": ImageFile(image, 0)}
    assert found.cases[0].label == tmp_path / "labelsTr" / "BRATS_002.nii.gz"
    assert found.cases[0].patient == "BRATS_002"

    decathlon(tmp_path, modality={"0": "T1gd", "1": "FLAIR"}, test=["./imagesTr/BRATS_001.nii.gz"])
    write(tmp_path / "imagesTr" / "BRATS_001.nii.gz")
    assert find(tmp_path, ("flair",)).cases[0].images["flair"].channel == 1
    assert [case.id for case in find(tmp_path, ("flair",), need_labels=False).cases] == [
        *("BRATS_001", "BRATS_002", "BRATS_010"),  # with those to be predicted
    ]


def test_decathlon_with_one_modality_holds_3d_files(tmp_path: Path) -> None:
    decathlon(tmp_path, modality={"0": "FLAIR"})
    assert find(tmp_path, ("flair",)).cases[0].images["flair"].channel is None


def test_decathlon_without_a_modality(tmp_path: Path) -> None:
    decathlon(tmp_path, modality={"0": "FLAIR", "1": "T1w"})
    assert "no modality t1ce; it names FLAIR, T1w" in problems(tmp_path)


@pytest.mark.parametrize("modality", [{"1": "FLAIR"}, ["FLAIR"], {}, {"0": 3, "2": 4}])
def test_decathlon_channels_must_count_up(tmp_path: Path, modality: object) -> None:
    decathlon(tmp_path, modality=modality)
    assert "expected names by channel" in problems(tmp_path)


def test_decathlon_modality_named_twice(tmp_path: Path) -> None:
    decathlon(tmp_path, modality={"0": "FLAIR", "1": "flair", "2": "T1w", "3": "T1gd", "4": "T2w"})
    assert "each once" in problems(tmp_path)


def test_decathlon_lists_every_bad_case(tmp_path: Path) -> None:
    good = {"image": "./imagesTr/BRATS_002.nii.gz", "label": "./labelsTr/BRATS_002.nii.gz"}
    gone = {"image": "imagesTr/BRATS_003.nii.gz", "label": "labelsTr/BRATS_003.nii.gz"}
    bare = {"image": "./imagesTr/BRATS_010.nii.gz"}
    decathlon(tmp_path, training=[good, good, gone, bare, {"label": "a"}])
    message = problems(tmp_path)
    assert "BRATS_002: the same id twice" in message
    assert f"BRATS_003: image does not exist: {tmp_path / 'imagesTr' / 'BRATS_003.nii.gz'}" in message
    assert "BRATS_003: label does not exist" in message
    assert "BRATS_010: no label (expected the key 'label' in training[3])" in message
    assert "training[4]: expected" in message


def test_decathlon_without_training_entries(tmp_path: Path) -> None:
    decathlon(tmp_path, training=[])
    assert "lists no case" in problems(tmp_path)


# Datalists


def test_datalist(tmp_path: Path) -> None:
    away = write(tmp_path / "elsewhere" / "x.nii.gz")
    path = write_json(
        tmp_path / "list.json",
        {
            "name": "study",
            "numTraining": 2,
            "tags": ["glioma"],
            "training": [listed(tmp_path, "c10"), listed(tmp_path, "c9", flair=str(away), patient="smith")],
            "test": [listed(tmp_path, "d", patient=None)],
        },
    )
    found = find(path, ("t2", "flair"))
    assert [(case.id, case.patient) for case in found.cases] == [("c9", "smith"), ("c10", "c10"), ("d", "d")]
    assert found.cases[0].images == {"t2": ImageFile(tmp_path / "c9-t2.nii"), "flair": ImageFile(away)}
    assert found.cases[0].label == tmp_path / "c9-label.nii"
    assert found.sections == {"training": ("c9", "c10"), "test": ("d",)}
    assert (found.layout, found.label_convention) == ("datalist", None)


def test_datalist_may_name_files_that_are_not_asked_for(tmp_path: Path) -> None:
    path = write_json(tmp_path / "list.json", {"training": [listed(tmp_path, "a", t1="gone.nii")]})
    assert list(find(path, ("flair",)).cases[0].images) == ["flair"]


def test_datalist_lists_every_bad_case(tmp_path: Path) -> None:
    same = listed(tmp_path, "b", t2="b-t1.nii")
    entries = [
        listed(tmp_path, "a", t1=None, label=None),
        same,
        listed(tmp_path, "a"),
        listed(tmp_path, "c", flair="gone.nii"),
        {"flair": "a.nii"},
        listed(tmp_path, "d", t2=7),
        "d.nii",
    ]
    message = problems(write_json(tmp_path / "list.json", {"training": entries}))
    assert "a: no t1 (expected the key 't1' in training[0]), no label (expected the key 'label'" in message
    assert "a: the same id twice: training[0] and training[2]" in message
    assert "b: t2 is the same file as training[1] t1" in message
    assert f"c: flair does not exist: {tmp_path / 'gone.nii'}" in message
    near = problems(write_json(tmp_path / "list.json", {"training": [listed(tmp_path, "a", flair="a-fliar.nii")]}))
    assert near.endswith(f"{tmp_path / 'a-fliar.nii'} (did you mean {tmp_path / 'a-flair.nii'}?)")
    assert "training[4]: no id" in message
    assert "training[5]: t2 is 7; expected a text" in message
    assert "training[6]: expected an object" in message


@pytest.mark.parametrize("bad", ["../a", "a/b", "a\\b", "..", "a\n", "x" * 129])
def test_ids_that_lead_to_another_folder_are_refused(tmp_path: Path, bad: str) -> None:
    path = write_json(tmp_path / "list.json", {"training": [listed(tmp_path, "a", id=bad)]})
    assert "cannot be a file name" in problems(path)


def test_datalist_with_unknown_key_or_section(tmp_path: Path) -> None:
    path = write_json(tmp_path / "list.json", {"training": [listed(tmp_path, "a", T1Ce="a.nii")]})
    with pytest.raises(UnknownName, match=r"no datalist key 'T1Ce'.*Known: flair, id, label, patient, t1, t1ce, t2"):
        find(path)
    path = write_json(tmp_path / "list.json", {"train": [listed(tmp_path, "a")]})
    with pytest.raises(UnknownName, match=r"no datalist section 'train'.*Known: test, training, validation"):
        find(path)


@pytest.mark.parametrize("content", [{"name": "nothing"}, {"training": []}])
def test_datalist_without_cases(tmp_path: Path, content: object) -> None:
    assert "lists no case" in problems(write_json(tmp_path / "list.json", content))


def test_json_that_does_not_parse_names_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text('{"training": [\n  {"id" "a"}\n]}')
    assert "line 2, column 9: Expecting ':' delimiter" in problems(path)
    path.write_bytes(b'{"name": "\xff"}')
    assert "not JSON in UTF-8" in problems(path)
    path.write_text("[1]")
    assert "holds a list" in problems(path)
    with pytest.raises(DataError, match="cannot read"):
        read_json(tmp_path / "gone.json")


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_natural_order_is_the_order_of_numbers(numbers: list[int]) -> None:
    assert sorted((f"case{n}x" for n in numbers), key=natural_key) == [f"case{n}x" for n in sorted(numbers)]
