"""Tables of cases: separators, columns by many names, what a row lacks, and what is refused."""

import pytest

from cggm_med.data.folders.case_table import read_table
from cggm_med.data.folders.propose import propose, read_any
from cggm_med.errors import DataError


@pytest.fixture
def table(tmp_path):
    def write(text, name="cases.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        return tmp_path / name

    return write


def test_a_table_is_read_as_a_list_of_the_same_cases(table, files):
    """By an independent reader: a datalist of MONAI's that says the same."""
    folder = files("1_t1.nii", "1_flair.nii", "1_seg.nii", "2_t1.nii", "2_seg.nii")
    entries = [
        {"id": "a", "t1": "1_t1.nii", "flair": "1_flair.nii", "label": "1_seg.nii", "fold": "0"},
        {"id": "b", "t1": "2_t1.nii", "label": "2_seg.nii", "fold": "1"},
    ]
    files(content={"training": entries}, name="list.json")
    rows = "id,t1,flair,label,fold,age\na,1_t1.nii,1_flair.nii,1_seg.nii,0,50\nb,2_t1.nii,,2_seg.nii,1,60\n"
    found, listed = propose(table(rows)), propose(folder / "list.json")
    assert (found.kind, found.cases, found.modalities) == ("table", listed.cases, listed.modalities)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_go_by_many_names(table, separator):
    rows = [
        ["SubjectID", "T1_path", "FLAIR filename", "Ground truth", "Split"],
        ["x", "1.nii", "2.nii", "3.nii", "val"],
    ]
    text = "\n".join(separator.join(row) for row in rows)
    entry = {"id": "x", "patient": "x", "T1": "1.nii", "FLAIR": "2.nii", "label": "3.nii"}
    assert read_table(table(text)) == {"validation": [entry]}


def test_a_column_of_files_is_an_image_whatever_its_name(table):
    assert read_table(table('scan,note\na.nii,"two\nlines"\n')) == {"training": [{"scan": "a.nii"}]}


def test_several_cases_of_a_patient_keep_names_of_their_own(table):
    rows = "patient,t1\nx,x_1_t1.nii\nx,x_2_t1.nii\n"
    assert read_table(table(rows))["training"] == [
        {"patient": "x", "t1": "x_1_t1.nii"},
        {"patient": "x", "t1": "x_2_t1.nii"},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has no column with files of images"),
        ("", "has no column with files of images"),
        (
            "id,t1,set\n1,a.nii,foo\n2,,train\n",
            r"line 2: its section is none of training, train, .*\n *line 3 names no",
        ),
        ("id,t1\n\n1,a.nii\n\n2,\n", "line 5 names no image"),
        ("id,case,t1\n1,1,a.nii\n", "several columns for one thing: id, case; keep one"),
        ("t1,t1_path\na.nii,b.nii\n", "several columns for one thing: t1, t1_path; keep one"),
        ("t1,t1\na.nii,b.nii\n", r"two columns of one name \(t1, t1\)"),
    ],
)
def test_what_cannot_be_used_is_told(table, text, message):
    with pytest.raises(DataError, match=message):
        read_table(table(text))


def test_what_is_no_text_is_told(tmp_path):
    (tmp_path / "cases.csv").write_bytes(b"id,t1\n\xff\xfe,a.nii\n")
    with pytest.raises(DataError, match="is no table in UTF-8"):
        read_any(tmp_path / "cases.csv")
