"""A cohort in shards: each case in exactly one, the same files however often it was interrupted, one row a case."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from helpers.fake_cohort import COLUMNS, FakeWork, folders, predict, sharded

from cggm_med import lock
from cggm_med.data.folders.streamed import Shard, cases_of, folder_of, shard_of
from cggm_med.errors import ConfigError, DataError, OutputError, UnknownName
from cggm_med.inference import cohort as cohorts
from cggm_med.inference import shards
from cggm_med.inference.manifest import Manifest

NAMES = [f"case{number}" for number in range(12)]
# Goes through shard 1 of 2 and is killed at a stage of its third case.
KILLED = """
import os, sys
from pathlib import Path
from helpers.fake_cohort import FakeWork, predict
out, cohort, stage = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
cases = []
def before(at, case):
    cases.append(case) if at == "mask" else None
    if at == stage and len(cases) == 3:
        os.kill(os.getpid(), 9)
predict(out, cohort, "1/2", work=FakeWork(out, before=before))
"""


@pytest.fixture
def cohort(tmp_path):
    return folders(tmp_path / "scans", NAMES)


def rows_of(out, number, count):
    with Manifest(out, Shard(number, count)).path.open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(out):
    """Every file but who is at work, with its content; rows in the order of their cases."""
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return {name: sorted(content.splitlines()) if name.suffix == ".csv" else content for name, content in files.items()}


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_shards_are_disjoint_and_together_the_cohort(cohort, count):
    held = [case.name for number in range(1, count + 1) for case in cases_of(cohort, (), Shard(number, count))]
    assert sorted(held) == sorted(NAMES)


def test_a_case_stays_in_its_shard_whatever_else_the_cohort_holds(tmp_path):
    of_few = {name: shard_of(name, 7) for name in NAMES}
    many = [f"case{number}" for number in range(7000)]
    of_many = {name: shard_of(name, 7) for name in many}
    assert of_few.items() <= of_many.items()
    # By hand: printf BraTS2021_00000 | b2sum -l 64 is 8b205cd8eff12ce1, and 0xe1 = 3 * 64 + 33; of größe f4...e9.
    found = [(shard_of(name, 64), folder_of(name)) for name in ("BraTS2021_00000", "größe")]
    assert found == [(34, "8b"), (42, "f4")]
    sizes = Counter(of_many.values())
    assert set(sizes) == set(range(1, 8))
    assert max(sizes.values()) - min(sizes.values()) < 0.2 * 1000  # binomial: 1000 each, sd 29
    assert len({folder_of(name) for name in many}) == 256
    assert (
        len({folder_of(name) for name in many if shard_of(name, 7) == 1}) > 200
    )  # shards do not share out the folders


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "/64", "3/0", "-1/4", "a/b", "3/64/2"])
def test_what_is_no_shard(text):
    with pytest.raises(ConfigError, match="expected K/N with K from 1 to N"):
        Shard.parse(text)


def test_every_case_has_its_mask_and_one_row(cohort, tmp_path):
    out = tmp_path / "out"
    for number in (1, 2, 3):
        predict(out, cohort, f"{number}/3", work=FakeWork(out, broken=["case4"]))
    rows = [row for number in (1, 2, 3) for row in rows_of(out, number, 3)]
    assert sorted(row["case"] for row in rows) == sorted(NAMES)
    assert {row["case"]: row["failed"] for row in rows if row["failed"]} == {"case4": "no scan in it"}
    for row in rows:
        if not row["failed"]:
            assert row["mask"] == f"{folder_of(row['case'])}/{row['case']}.nii.gz"
            assert (out / row["mask"]).read_text() == row["case"]


def test_what_is_there_is_skipped_and_what_failed_or_is_new_is_done(cohort, tmp_path):
    out = tmp_path / "out"
    assert predict(out, cohort, "1/1", work=FakeWork(out, broken=["case4"])) == 1
    (out / folder_of("case7") / "case7.nii.gz").unlink()
    folders(cohort, ["new"])
    work, said = FakeWork(out), []
    assert predict(out, cohort, "1/1", work=work, say=said.append) == 0
    assert sorted(work.worked) == ["case4", "case7", "new"]
    assert said[0] == "shard 1/1: 10 cases there already"
    assert sorted(row["case"] for row in rows_of(out, 1, 1)) == sorted([*NAMES, "new"])


def test_a_manifest_that_ends_anywhere_is_whole_again(tmp_path):
    """A write may have stopped at any byte: the files become those of a shard that was never interrupted."""
    cohort, out = folders(tmp_path / "scans", NAMES[:2]), tmp_path / "out"
    predict(out, cohort, "1/1")
    expected, manifest = files_of(out), Manifest(out, Shard(1, 1)).path
    whole = manifest.read_bytes()
    for end in (*range(0, len(whole), 16), len(whole) - 1):
        manifest.write_bytes(whole[:end])
        work = FakeWork(out)
        predict(out, cohort, "1/1", work=work)
        assert files_of(out) == expected, end
        assert work.worked == []  # a mask that is there gets its row without being made again


@pytest.mark.parametrize("stage", ["mask", "row"])
def test_killed_and_resumed_or_taken_over(cohort, tmp_path, stage):
    never, out, copy = (tmp_path / name for name in ("never", "out", "copy"))
    for number in (1, 2):
        predict(never, cohort, f"{number}/2")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", KILLED, out, cohort, stage], env=environment).returncode == -9
    assert len(rows_of(out, 1, 2)) == 2
    shutil.copytree(out, copy)
    for number in (1, 2):
        predict(out, cohort, f"{number}/2")
    assert files_of(out) == files_of(never)

    work, said = FakeWork(copy), []
    predict(copy, cohort, "2/2", work=work, take_over=True, say=said.append)
    assert "taking over shard 1/2, whose process has ended" in said
    assert len(work.worked) == len(NAMES) - (3 if stage == "row" else 2)
    assert files_of(copy) == files_of(never)


def test_who_lives_is_not_taken_over_and_keeps_its_shard(cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LEASE", 0.6)
    monkeypatch.setattr(lock, "LOOK", 0.05)
    out, said = tmp_path / "out", []
    predict(out, cohort, "1/2")
    manifest = Manifest(out, Shard(1, 2))
    manifest.end.unlink()
    with lock.alone(out, name=manifest.lock):
        with pytest.raises(OutputError, match=r"shard 1/2 in .* is in use by process"):
            predict(out, cohort, "1/2")
        work = FakeWork(out)
        predict(out, cohort, "2/2", work=work, take_over=True, say=said.append)
        assert sorted(work.worked) == sorted(name for name in NAMES if shard_of(name, 2) == 2)
        assert not any("taking over" in line for line in said)
        # The one that lost its own shard while it was away does not fail: its cases are being done.
        assert predict(out, cohort, "1/2", take_over=True, say=said.append) == 0
        assert said[-1] == "another process works on shard 1/2; looking for others that were left"
        first, _ = cohorts.status(out)
        assert (first.state, first.pending) == ("running", None)
        assert f"process {os.getpid()} on" in first.process


def test_what_was_finished_in_the_meantime_is_not_taken_over(cohort, tmp_path, monkeypatch):
    out, said = tmp_path / "out", []
    predict(out, cohort, "1/2")
    end = Manifest(out, Shard(1, 2)).end
    finished = end.read_bytes()
    end.unlink()

    @contextlib.contextmanager
    def late(files):
        with lock.abandoned(files) as taken:
            end.write_bytes(finished)
            yield taken

    monkeypatch.setattr(shards, "abandoned", late)
    predict(out, cohort, "2/2", take_over=True, say=said.append)
    end.unlink()
    predict(out, cohort, "2/2", take_over=True, say=said.append)
    assert not [line for line in said if "1/2" in line]


def test_masks_of_two_runs_or_cohorts_are_not_mixed(cohort, tmp_path):
    sharded(tmp_path / "out", cohort, 4, weights="a")
    with pytest.raises(OutputError, match="made with weights a, and this call has b; use the same, or choose another"):
        sharded(tmp_path / "out", cohort, 4, weights="b")
    with pytest.raises(OutputError, match="made with shards 4, and this call has 8"):
        sharded(tmp_path / "out", cohort, 8, weights="a")
    with pytest.raises(OutputError, match="made with cohort .*scans, and this call has .*others"):
        sharded(tmp_path / "out", tmp_path / "others", 4, weights="a")


def test_status_counts(cohort, tmp_path):
    out = tmp_path / "out"
    predict(out, cohort, "2/3", work=FakeWork(out, broken=NAMES[:8]))
    killed_rows = Manifest(out, Shard(3, 3))
    killed_rows.path.write_text(",".join(COLUMNS) + "\nof a process,,,that was,killed\nhal")
    sizes = Counter(shard_of(name, 3) for name in NAMES)
    failed = sum(shard_of(name, 3) == 2 for name in NAMES[:8])
    said = [(each.shard, each.state, each.done, each.failed, each.pending) for each in cohorts.status(out)]
    second = ("2/3", "finished", sizes[2] - failed, failed, 0)
    assert said == [("1/3", "not begun", 0, 0, None), second, ("3/3", "stopped", 1, 0, None)]
    assert [each.pending for each in cohorts.status(out, count=True)] == [sizes[1], 0, sizes[3] - 1]
    *_, total = cohorts.status_table(cohorts.status(out, count=True)).rows
    assert total[:2] == ("all", "1 not begun, 1 finished, 1 stopped")
    with pytest.raises(DataError, match="holds no cohort.json; expected the --out of 'predict --shard K/N'"):
        cohorts.status(tmp_path)


def test_the_merged_table_has_every_case_once_in_natural_order(cohort, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for number in (1, 2, 3):
        predict(out, cohort, f"{number}/3", work=FakeWork(out, broken=["case4"]))
    assert cohorts.merge(out, tmp_path / "all.csv") == len(NAMES)
    with (tmp_path / "all.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        assert [row["case"] for row in reader] == NAMES  # case10 after case9
        assert tuple(reader.fieldnames) == COLUMNS
    # In parts that memory can hold, it is the same; so it is in the order in which shards were done.
    monkeypatch.setattr(cohorts, "SORTED_AT_ONCE", 5)
    cohorts.merge(out, tmp_path / "parts.csv")
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "all.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.csv", "out", "parts.csv", "scans"]

    Manifest(out, Shard(2, 3)).end.unlink()
    path = Manifest(out, Shard(2, 3)).path
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"1 of 3 shards not finished: 2/3; run them .* or merge .* --incomplete"):
        cohorts.merge(out, tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()
    assert cohorts.merge(out, tmp_path / "some.csv", incomplete=True) == len(NAMES) - 1


def test_a_table_is_read_row_by_row(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("Case ID;age;FLAIR_path;t1;seg\na;61;a/f.nii.gz;;a/s.nii\nb;;/b/f.nii.gz;b/t.nii.gz;\n")
    one, two = cases_of(table, ("flair", "t1", "t2"))
    assert (one.name, dict(one.images)) == ("a", {"flair": tmp_path / "a/f.nii.gz"})
    assert (two.name, dict(two.images)) == ("b", {"flair": Path("/b/f.nii.gz"), "t1": tmp_path / "b/t.nii.gz"})


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ("id,flair,t1c\na,f.nii,t.nii\n", UnknownName, "no modality in this run 't1c'. Did you mean 't1'?"),
        ("flair,t1\nf.nii,t.nii\n", DataError, "has 0 columns of id; expected a first line such as"),
        ("id,flair,FLAIR\na,f.nii,t.nii\n", DataError, "has 2 columns of flair"),
        ("id,flair\na,f.nii\n../b,f.nii\n", DataError, "line 3 of .*: id '../b' cannot be a file name"),
        ("id,flair\n", DataError, "lists no case"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, content, kind, said):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(kind, match=said):
        list(cases_of(tmp_path / "a.csv", ("flair", "t1")))


def test_cohorts_that_are_none(tmp_path):
    (tmp_path / "flat").mkdir()
    with pytest.raises(DataError, match="holds no folder; expected a folder with a folder for each case, or a table"):
        list(cases_of(tmp_path / "flat", ()))
    (tmp_path / "flat" / "a_0000.nii.gz").touch()
    with pytest.raises(DataError, match=r"a_0000.nii.gz lies beside the folders of cases; .* or leave out --shard"):
        list(cases_of(tmp_path / "flat", ()))
    (tmp_path / "dataset.json").write_text(json.dumps({"training": []}))
    with pytest.raises(DataError, match="cannot be read case by case"):
        cases_of(tmp_path / "dataset.json", ())
    with pytest.raises(DataError, match="does not exist"):
        cases_of(tmp_path / "absent", ())


def test_a_name_twice_or_one_that_cannot_be_a_file_s(tmp_path):
    table = tmp_path / "cohort.csv"
    table.write_text("id,flair\na,a.nii\nb,b.nii\na,c.nii\n")
    with pytest.raises(DataError, match="names case a twice; give each case a name of its own"):
        predict(tmp_path / "out", table, "1/1")
    cohort = folders(tmp_path / "scans", ["fine", "new\nline"])
    assert predict(tmp_path / "other", cohort, "1/1") == 1
    failed = {row["case"]: row["failed"] for row in rows_of(tmp_path / "other", 1, 1) if row["failed"]}
    assert failed == {r"'new\nline'": "its name cannot be that of a result; rename it"}
