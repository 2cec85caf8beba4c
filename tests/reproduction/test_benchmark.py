"""Benchmarks: the lists are those that were published, and the table follows from finished runs by hand."""

import csv
import hashlib
import json
import statistics
from itertools import combinations

import pytest
from helpers.command_line import command
from helpers.finished import finished_run

from cggm_med.data.cases import Case
from cggm_med.data.splits import Splits, check_splits
from cggm_med.errors import ConfigError, DataError
from cggm_med.reproduction.benchmark import command as benchmark_command
from cggm_med.reproduction.benchmark.case_lists import case_lists, first_cases, in_folder, source
from cggm_med.reproduction.benchmark.catalogue import BENCHMARKS, CONVENTIONS, MODALITIES, REGIONS, SUBSETS, find

# Of the lists as their repositories have them, by the command of docs/how-to/benchmarks.md:
# git show COMMIT:FILE | LC_ALL=C sort | sha256sum; of BraTS 2020 after sed 's/^[HL]G_//'.
PUBLISHED = {
    ("brats2018-3fold", 1): ("4057bf382725122d", "89c0e5205eaa0abe", "f672d4804f75c258"),
    ("brats2018-3fold", 2): ("50a65209058c3cb9", "6e303ed5ff76230c", "ee512175620c06b9"),
    ("brats2018-3fold", 3): ("8e9cfe16b8c61a00", "f9dc762fd1781dc9", "4d9f2e553afc7fa7"),
    ("brats2020-rfnet", 1): ("6d2756040a51de44", "affbd95b626ab057", "251f7176c10ddf9f"),
    ("brats2023-im-fuse", 1): ("5c8470020869495a", "b291844da11834fa", "02403f8f23b4a9af"),
}
SIZES = {"brats2018-3fold": (199, 29, 57), "brats2020-rfnet": (219, 50, 100), "brats2023-im-fuse": (875, 125, 251)}
of_every_benchmark = pytest.mark.parametrize("benchmark", BENCHMARKS.values(), ids=lambda of: of.name)


def digest(ids):
    return hashlib.sha256("".join(f"{id}\n" for id in sorted(ids)).encode()).hexdigest()[:16]


def members(ids):
    """Cases whose patient is the name without the time point of BraTS 2023."""
    return [Case(id, id.rsplit("-", 1)[0] if id.startswith("BraTS-GLI") else id, {}, None) for id in ids]


@of_every_benchmark
def test_lists_are_the_published_ones(benchmark):
    lists = case_lists(benchmark)
    assert [key for key in PUBLISHED if key[0] == benchmark.name] == [
        (benchmark.name, n + 1) for n in range(len(lists))
    ]
    every = {id for _, ids in lists[0].items() for id in ids}
    for number, splits in enumerate(lists, 1):
        assert tuple(len(ids) for _, ids in splits.items()) == SIZES[benchmark.name]
        assert tuple(digest(ids) for _, ids in splits.items()) == PUBLISHED[benchmark.name, number]
        assert {id for _, ids in splits.items() for id in ids} == every
        check_splits(splits, members(every))  # no patient stands on two sides
    assert "commit" in source(benchmark)


def test_subsets_are_all_of_four_modalities_each_once():
    every = {s for size in range(1, 5) for s in combinations(MODALITIES, size)}
    assert len(SUBSETS) == 15
    assert {*SUBSETS} == every


@of_every_benchmark
def test_a_published_mean_is_that_of_its_regions(benchmark):
    for published in benchmark.published:
        if published.regions is not None:
            mean = statistics.fmean(map(float, published.regions))
            assert float(published.mean) == pytest.approx(mean, abs=0.0501)


def test_a_folder_that_lacks_cases_is_refused_and_other_cases_are_told():
    benchmark, said = find("brats2020-rfnet"), []
    (listed,) = case_lists(benchmark)
    every = [id for _, ids in listed.items() for id in ids]
    with pytest.raises(DataError) as raised:
        in_folder(benchmark, [listed], members(every[2:]), "scans", said.append)
    assert f"scans lacks 2 of the 369 cases of brats2020-rfnet: {every[0]}, {every[1]}; add them" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    (found,) = in_folder(benchmark, [listed], members([*map(str.upper, every), "other"]), "scans", said.append)
    assert found.test == tuple(map(str.upper, listed.test))
    assert said == ["left out: 1 cases of scans that brats2020-rfnet does not list (other)"]


def test_a_few_cases_of_every_list_stay_where_they_are():
    lists = case_lists(find("brats2018-3fold"))
    few = first_cases(lists, 2)
    assert all(len(ids) >= 2 for splits in few for _, ids in splits.items())
    assert all(
        {*ids} <= {*getattr(of, name)} for splits, of in zip(few, lists, strict=True) for name, ids in splits.items()
    )
    assert len({frozenset(id for _, ids in splits.items() for id in ids) for splits in few}) == 1


LISTS = (Splits(("t1",), (), ("a", "b")), Splits(("t1",), (), ("c",)))


@pytest.fixture
def small(monkeypatch):
    """A benchmark of two splits with three test cases."""
    monkeypatch.setattr(benchmark_command, "case_lists", lambda benchmark: LISTS)


def trained(folder, cases, *, seed=0, train=("t1",), hd95=True, subsets=SUBSETS):
    """A run whose Dice is that of its case, a tenth more from all modalities; its HD95 and empty masks as given."""
    dice = {case: d for case, (d, _, _) in cases.items()}
    run = finished_run(folder, dice, seed=seed, train=train, regions=REGIONS)
    rows = [
        {"case": c, "subset": "+".join(s), "region": r, "dice": d + (s == MODALITIES) / 10}
        | ({"hd95_mm": mm, "empty": empty} if hd95 else {})
        for c, (d, mm, empty) in cases.items()
        for s in subsets
        for r in REGIONS
    ]
    (run / "subsets" / "test").mkdir(parents=True)
    (run / "subsets" / "test" / "results.json").write_text(json.dumps({"cases": rows}))
    return run


def read(file):
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def test_means_are_over_cases_then_splits_then_seeds(small, tmp_path, monkeypatch, capsys):
    runs = [
        trained(tmp_path / "0-1", {"a": (0.2, 10.0, "none"), "b": (0.4, 374.0, "missed")}),
        trained(tmp_path / "0-2", {"c": (0.5, 0.0, "both")}),
        trained(tmp_path / "1-1", {"a": (0.4, 10.0, "none"), "b": (0.6, 374.0, "false")}, seed=1),
        trained(tmp_path / "1-2", {"c": (0.7, 0.0, "both")}, seed=1),
    ]
    out = tmp_path / "out"
    command(monkeypatch, "benchmark", "brats2018-3fold", *runs, "-o", out)
    rows = {(row["subset"], row["region"]): row for row in read(out / "benchmark.csv")}
    # Seed 0: ((.2 + .4) / 2 + .5) / 2 = .4; seed 1: ((.4 + .6) / 2 + .7) / 2 = .6.
    assert float(rows["t2", "WT"]["dice"]) == pytest.approx(0.5)
    assert float(rows["t2", "WT"]["dice_sd"]) == pytest.approx(0.2 / 2**0.5)
    assert float(rows["+".join(MODALITIES), "mean"]["dice"]) == pytest.approx(0.6)
    assert float(rows["mean over subsets", "mean"]["dice"]) == pytest.approx(0.5 + 0.1 / 15)
    assert float(rows["t1", "ET"]["hd95_mm"]) == pytest.approx(((10 + 374) / 2 + 0) / 2)
    assert [*dict.fromkeys(row["subset"] for row in read(out / "benchmark.csv"))][:15] == ["+".join(s) for s in SUBSETS]
    of_cases = read(out / "cases.csv")
    assert len(of_cases) == 2 * 3 * 15 * 3
    assert of_cases[0].items() >= {"strategy": "joint", "seed": "0", "split": "1", "case": "a", "subset": "t2"}.items()
    page = (out / "benchmark.md").read_text()
    # From the cases again: 10 alone; b counts as the convention says of one empty mask, c as it says of two.
    by_hand = {"0": (10 + 0) / 2 / 2, "0 or 373.13": (10 + 373.12866) / 4, "0 or 393": 403 / 4, "0 or 1": 11 / 4}
    by_hand |= {"393": (403 / 2 + 393) / 2, "0 or 374, as above": 384 / 4}
    for convention, mm in by_hand.items():
        assert f"| joint | {convention} | {mm:.1f} ± 0.0 |" in page
    assert "| joint | left out | - |" in page  # nothing is left of split 2
    assert "| DeMoSeg | 87.96 | 79.79 | 64.90 | 77.6 | self-reported |" in page
    assert "79cc5afcd2f9bbfb55cadb2e66140db3df091c6a" in page
    assert "only split" not in page
    assert "- joint: preset tiny, 10 epochs of 50 steps, each of 4 patches of 32 x 32 x 32 voxels, seeds 0, 1" in page
    assert "## brats2018-3fold, joint: Dice in percent" in page
    assert {convention.name for convention in CONVENTIONS} == {*by_hand, "left out"} - {"0 or 374, as above"}
    overall = " | ".join(["50.67 ± 14.14"] * 4)
    assert f"| joint | {overall} | here |" in page
    assert "DeMoSeg" in capsys.readouterr().out


def test_a_seed_without_all_splits_says_so(small, tmp_path, monkeypatch):
    run = trained(tmp_path / "run", {"c": (0.5, 1.0, "none")})
    command(monkeypatch, "benchmark", "brats2018-3fold", run, "-o", tmp_path / "out")
    assert "joint, seed 0: only split 2 of 2" in (tmp_path / "out" / "benchmark.md").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"train": ("t1", "c")},
            "was not trained on brats2018-3fold, whose cases are others: train: 1 of 2 unlisted, 0 of 1 missing",
        ),
        ({"hd95": False}, "lacks HD95 of t2 in a; move that folder away"),
        ({"subsets": SUBSETS[1:]}, "lacks scores of t2 in a"),
    ],
)
def test_a_run_that_cannot_be_compared_is_refused(changes, said, small, tmp_path, monkeypatch, capsys):
    run = trained(tmp_path / "run", {"a": (0.5, 1.0, "none"), "b": (0.5, 1.0, "none")}, **changes)
    command(monkeypatch, "benchmark", "brats2018-3fold", run, "-o", tmp_path / "out", code=1)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--set", "data.test=0.5"), "data.test: benchmark brats2020-rfnet decides this"),
        (("--strategies", "unimodal"), "task.modalities: benchmark brats2020-rfnet decides this"),
    ],
)
def test_what_the_list_decides_cannot_be_set(words, error, tmp_path, monkeypatch, capsys):
    command(monkeypatch, "benchmark", "brats2020-rfnet", "--data", tmp_path, *words, "-o", tmp_path / "out", code=1)
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_data_it_says_what_to_get_and_names_are_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command(monkeypatch, "benchmark", "brats2023-im-fuse", code=1)
    said = capsys.readouterr().err
    assert "{t2f,t1n,t1c,t2w,seg}" in said
    assert "cggm-med benchmark brats2023-im-fuse --data PATH" in said
    command(monkeypatch, "benchmark", "--list")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*BENCHMARKS]
    command(monkeypatch, "benchmark", "brats2020", code=1)
    assert "Did you mean 'brats2020-rfnet'?" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_no_run_is_no_table(small, tmp_path):
    with pytest.raises(ConfigError, match="no run of brats2020-rfnet could be scored"):
        benchmark_command.score_runs(find("brats2020-rfnet"), [], tmp_path, None)
