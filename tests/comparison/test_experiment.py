import itertools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.command_line import command
from helpers.finished import finished_run
from helpers.slurm import stand_ins
from scipy import stats

from cggm_med.comparison import experiment
from cggm_med.comparison.variants import parse_seeds
from cggm_med.errors import ConfigError

# Stands for a training: takes the finished run of that strategy and seed from a shelf, or fails if there is none.
STAND_IN = """
import pathlib, shutil, sys
words = sys.argv[2:]
if "--resume" in words:
    out = pathlib.Path(words[words.index("--resume") + 1])
    print("resuming")
    (out / "results.json").write_text((out / "later.json").read_text())
    sys.exit()
out = pathlib.Path(words[words.index("--out") + 1])
made = pathlib.Path(sys.argv[1], *out.parts[-2:])
refusal = pathlib.Path(sys.argv[1], "refusal.txt")
if refusal.exists():
    print(refusal.read_text())
    sys.exit(1)
print("ConfigError: no such luck" if not made.exists() else "training", " ".join(words), flush=True)
if not made.exists():
    print("and nothing more")
    sys.exit(1)
shutil.copytree(made, out)
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Folder of runs that are as good as trained."""
    monkeypatch.setattr(experiment, "PROGRAM", (sys.executable, "-c", STAND_IN, str(tmp_path / "shelf")))
    return tmp_path / "shelf"


def compare(monkeypatch, out, *words, data="scans", code=0):
    """On a folder that is there, and that nothing of a stand-in reads."""
    if data == "scans":
        data = out.parent / "scans"
        data.mkdir(exist_ok=True)
    where = () if data is None else ("--data", data)
    command(monkeypatch, "compare", "--preset", "tiny", "--out", out, *where, *words, code=code)


def read(out):
    return json.loads((out / "comparison.json").read_text())


def test_all_runs_are_trained_and_compared(shelf, tmp_path, monkeypatch, capsys):
    for seed in range(3):
        finished_run(shelf / "joint" / f"seed-{seed}", {"a": 0.5}, seed=seed)
        finished_run(shelf / "cggm" / f"seed-{seed}", {"a": 0.5 + seed / 10}, strategy="cggm", seed=seed)
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint,cggm", "--seeds", "3", "--parallel", "2")
    content = read(tmp_path / "out")
    assert [row["name"] for row in content["rows"][:2]] == ["joint", "cggm"]
    assert content["rows"][1]["difference"] == pytest.approx(0.1)
    assert len(content["runs"]) == 6
    said = capsys.readouterr().out
    assert "6 runs to train, 2 at once" in said
    assert "6/6" in said
    log = (tmp_path / "out" / "runs" / "cggm" / "seed-2.log").read_text()
    assert "--strategy cggm" in log
    assert "--set train.seed=2" in log


def test_the_same_command_again_trains_what_is_missing(shelf, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    for seed in (0, 1):
        finished_run(shelf / "joint" / f"seed-{seed}", {"a": 0.5}, seed=seed)
    compare(monkeypatch, out, "--strategies", "joint", "--seeds", "1")
    before = (out / "runs" / "joint" / "seed-0" / "results.json").stat().st_mtime_ns
    stopped = finished_run(out / "runs" / "joint" / "seed-1", {"a": 0.7}, seed=1)
    (stopped / "results.json").rename(stopped / "later.json")
    capsys.readouterr()
    compare(monkeypatch, out, "--strategies", "joint", "--seeds", "2")
    assert "1 of 2 runs are there already" in capsys.readouterr().out
    assert (out / "runs" / "joint" / "seed-0" / "results.json").stat().st_mtime_ns == before
    assert "resuming" in (out / "runs" / "joint" / "seed-1.log").read_text()
    assert read(out)["rows"][0]["mean"] == pytest.approx(0.6)


# Stands for a training that saves when it is asked to end, once.
PATIENT = """
import pathlib, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
asked = []
signal.signal(signal.SIGINT, lambda *words: asked.append(words))
(out / "config.yaml").touch()  # its data are prepared
(out / "begun").touch()
while not asked:
    time.sleep(0.01)
time.sleep(0.1)
(out / "saved").write_text(str(len(asked)))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_trainings_too_after_they_have_saved(number, code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "PROGRAM", (sys.executable, "-c", PATIENT))
    runs = tmp_path / "out" / "runs" / "joint"

    def ask():
        while len(list(runs.glob("*/begun"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint", "--seeds", "2", "--parallel", "2", code=code)
    asking.join()
    assert [file.read_text() for file in runs.glob("*/saved")] == ["1", "1"]
    assert "stopped; the same command goes on" in capsys.readouterr().err


def test_a_run_that_fails_is_named_and_not_averaged(shelf, tmp_path, monkeypatch, capsys):
    for seed in (0, 1):
        finished_run(shelf / "joint" / f"seed-{seed}", {"a": 0.5}, seed=seed)
    finished_run(shelf / "cggm" / "seed-1", {"a": 0.9}, strategy="cggm", seed=1)
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint,cggm", "--seeds", "2")
    content = read(tmp_path / "out")
    assert content["excluded"][0]["run"].endswith("cggm/seed-0")
    assert "failed: ConfigError: no such luck" in content["excluded"][0]["reason"]
    (cggm,) = [row for row in content["rows"] if row["name"] == "cggm" and row["score"] == "Dice mean"]
    assert (cggm["runs"], cggm["paired"], cggm["mean"]) == (1, 1, 0.9)
    assert "no such luck" in (tmp_path / "out" / "comparison.md").read_text()


def test_what_the_first_run_refuses_ends_the_comparison_before_others_start(shelf, tmp_path, monkeypatch, capsys):
    shelf.mkdir()
    (shelf / "refusal.txt").write_text("2 cases; checking\nDataError: 1 case cannot be used:\n  p1: no t1\n")
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint,cggm", "--seeds", "2", "--parallel", "4", code=1)
    said = capsys.readouterr()
    assert said.err == "DataError: 1 case cannot be used:\n  p1: no t1\n"
    assert "1/4" not in said.out
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_refused(shelf, tmp_path, monkeypatch, capsys):
    finished_run(shelf / "joint" / "seed-0", {"a": 0.5})
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint", "--seeds", "1")
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint", "--seeds", "1", "--set", "optim.lr=1e-5", code=1)
    error = capsys.readouterr().err
    assert "optim.lr: 0.003 != 1e-05" in error
    assert "--out" in error


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("train.subset_view=0.5", "train.subset_view: 0.5 != 0.0"),
        ("data.fold=1", "data.fold: 1 != None"),
        ("data.spacing=[3,3,3]", "data.spacing: [3.0, 3.0, 3.0] != None"),  # None: the data decide
    ],
)
def test_a_setting_that_is_no_longer_given_is_another_setting(setting, says, shelf, tmp_path, monkeypatch, capsys):
    finished_run(shelf / "joint" / "seed-0", {"a": 0.5}, settings=[setting])
    words = (tmp_path / "out", "--strategies", "joint", "--seeds", "1")
    compare(monkeypatch, *words, "--set", setting)
    compare(monkeypatch, *words, code=1)
    assert says in capsys.readouterr().err


def test_a_run_that_is_older_than_a_setting_has_its_default(tmp_path, monkeypatch, capsys):
    run = finished_run(tmp_path / "out" / "runs" / "joint" / "seed-0", {"a": 0.5})
    config = (run / "config.yaml").read_text()
    assert "  encoder: unet\n" in config
    (run / "config.yaml").write_text(config.replace("  encoder: unet\n", ""))
    words = (tmp_path / "out", "--strategies", "joint", "--seeds", "1")
    compare(monkeypatch, *words)
    assert read(tmp_path / "out")["rows"][0]["name"] == "joint"
    compare(monkeypatch, *words, "--set", "model.encoder=residual", code=1)
    assert "model.encoder: unet != residual" in capsys.readouterr().err


def test_a_run_that_was_trained_by_hand_does_not_tell_what_the_data_decided(tmp_path, monkeypatch, capsys):
    finished_run(tmp_path / "out" / "runs" / "joint" / "seed-0", {"a": 0.5}, settings=["data.spacing=[3,3,3]"])
    words = (tmp_path / "out", "--strategies", "joint", "--seeds", "1")
    compare(monkeypatch, *words)
    compare(monkeypatch, *words, "--set", "data.spacing=[2,2,2]", code=1)
    assert "data.spacing: [3.0, 3.0, 3.0] != [2.0, 2.0, 2.0]" in capsys.readouterr().err


def test_on_the_phantom_each_seed_has_patients_of_its_own(shelf, tmp_path, monkeypatch, capsys):
    drawn = ["data.phantom_cases=60", "data.validation=0.1", "data.test=0.5"]
    for seed, strategy in itertools.product((0, 1), ("joint", "cggm")):
        ids = [f"{seed}{letter}" for letter in "abc"]
        settings = [f"data.phantom_seed={seed}", *drawn]
        dice = dict.fromkeys(ids, 0.5 + (strategy == "cggm") * (0.1 + seed / 100))
        folder, train = shelf / strategy / f"seed-{seed}", (f"{seed}t",)
        finished_run(folder, dice, strategy=strategy, seed=seed, settings=settings, train=train)
    words = ("--strategies", "joint,cggm", "--seeds", "2")
    compare(monkeypatch, tmp_path / "out", *words, data=None)
    content = read(tmp_path / "out")
    assert not content["excluded"]
    assert [row["name"] for row in content["rows"][:2]] == ["joint", "cggm"]
    # Runs on different patients are independent: the paired t-test of .10 and .11 has t = .105 / .005 = 21.
    assert content["rows"][1]["p"] == pytest.approx(2 * stats.t.sf(21, 1))
    log = (tmp_path / "out" / "runs" / "cggm" / "seed-1.log").read_text()
    assert "--set data.phantom_seed=1 --set data.phantom_cases=60 --set data.validation=0.1 --set data.test=0.5" in log
    compare(monkeypatch, tmp_path / "out", *words, "--set", "data.phantom_seed=3", data=None, code=1)
    assert "data.phantom_seed: 0 != 3" in capsys.readouterr().err


def test_a_primary_comparison_is_declared_before_anything_is_trained(shelf, tmp_path, monkeypatch, capsys):
    for seed, strategy in itertools.product((0, 1), ("joint", "cggm", "uniform")):
        folder, settings = (f"{strategy},lr=1e-2", ["optim.lr=1e-2"]) if strategy == "cggm" else (strategy, [])
        dice = {"a": 0.5 + (strategy == "cggm") * (0.1 + seed / 100)}
        finished_run(shelf / folder / f"seed-{seed}", dice, strategy=strategy, seed=seed, settings=settings)
    out, words = tmp_path / "out", ("--strategies", "joint,cggm[optim.lr=1e-2],uniform", "--seeds", "2")
    for wrong, says in (("unifrom", "Did you mean 'uniform'"), ("joint", "--primary joint is the baseline")):
        compare(monkeypatch, out, *words, "--primary", wrong, code=1)
        assert says in capsys.readouterr().err
    compare(monkeypatch, out, *words, "--primary", "uniform", "--margin", "-1", code=1)
    compare(monkeypatch, out, *words, "--margin", "0.01", code=2)
    assert not out.exists()
    compare(monkeypatch, out, *words, "--primary", "cggm[optim.lr=1e-2]", "--margin", "0.01")
    (first,) = json.loads((out / "primary.json").read_text())["declarations"]
    assert (first["name"], first["baseline"], first["margin"], first["finished"]) == ("cggm, lr=1e-2", "joint", 0.01, 0)
    assert first["settings"]["strategies"] == ["joint", "cggm, lr=1e-2", "uniform"]
    # It stays, with its date, also where its runs are compared under other names; a later one does not hide it.
    command(monkeypatch, "compare", *(out / "runs").glob("*/seed-?"), "--out", out)
    assert json.loads((out / "primary.json").read_text())["declarations"] == [first]
    assert "`cggm, lr=0.01` against `joint`" in read(out)["notes"][0]
    assert "Difference +0.105" in read(out)["notes"][0]
    compare(monkeypatch, out, *words, "--primary", "uniform")
    assert "after 6 runs were finished in place of `cggm, lr=1e-2`" in read(out)["notes"][0]


def test_settings_are_checked_before_anything_is_trained(shelf, tmp_path, monkeypatch, capsys):
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint,cggm[strategy.rho=-1]", code=1)
    assert "strategy.rho is -1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tuning_chooses_by_validation_and_gives_all_the_same_number_of_trials(shelf, tmp_path, monkeypatch, capsys):
    for strategy in ("joint", "cggm"):
        for lr, score in (("1e-3", 0.7), ("1e-2", 0.4)):
            settings = [f"optim.lr={lr}"]
            name = f"{strategy},lr={lr}"
            tried = finished_run(shelf / "tuning" / name, {"a": 0.1}, strategy=strategy, settings=settings)
            record = {"kind": "validation", "step": 1, "scores": {"Dice mean": score}}
            (tried / "metrics.jsonl").write_text(json.dumps(record) + "\n")
            finished_run(shelf / name / "seed-0", {"a": 0.5}, strategy=strategy, settings=settings)
    words = ("--strategies", "joint,cggm", "--seeds", "1", "--tune", "optim.lr=1e-3,1e-2")
    compare(monkeypatch, tmp_path / "out", *words)
    assert len(list((tmp_path / "out" / "tuning").glob("*/results.json"))) == 4
    assert [row["name"] for row in read(tmp_path / "out")["rows"][:2]] == ["joint, lr=1e-3", "cggm, lr=1e-3"]
    assert "tuned: joint, lr=1e-3 (validation 0.700)" in capsys.readouterr().out
    compare(monkeypatch, tmp_path / "few", *words, "--trials", "1")
    assert len(list((tmp_path / "few" / "tuning").glob("*/results.json"))) == 2


def test_folds_are_written_and_given_to_the_runs(shelf, tmp_path, monkeypatch, phantom, cache):
    words = ("--strategies", "joint", "--seeds", "1", "--folds", "3", "--set", f"data.cache={cache}")
    compare(monkeypatch, tmp_path / "out", *words, data=phantom, code=1)
    splits = [json.loads((tmp_path / "out" / "folds" / f"fold-{k}-of-3.json").read_text()) for k in range(3)]
    tested = [case for split in splits for case in split["test"]]
    assert len(tested) == len(set(tested)) == sum(len(x) for x in splits[0].values())
    for split in splits:
        assert not set(split["train"]) & {*split["test"], *split["validation"]}
        assert split["validation"]
    log = (tmp_path / "out" / "runs" / "joint" / "seed-0-fold-2-of-3.log").read_text()
    assert f"data.splits={tmp_path / 'out' / 'folds' / 'fold-2-of-3.json'}" in log


def test_folds_of_other_cases_are_refused(shelf, tmp_path, monkeypatch, phantom, cache, capsys):
    words = ("--strategies", "joint", "--seeds", "1", "--folds", "3", "--set", f"data.cache={cache}")
    compare(monkeypatch, tmp_path / "out", *words, data=phantom, code=1)
    capsys.readouterr()
    compare(monkeypatch, tmp_path / "out", *words, "--set", "data.validation=0", data=phantom, code=1)
    assert "divides other cases, or in another way" in capsys.readouterr().err


def test_finished_runs_alone(tmp_path, monkeypatch, capsys):
    runs = [finished_run(tmp_path / f"{s}", {"a": 0.5}, strategy=s) for s in ("joint", "uniform")]
    command(monkeypatch, "compare", *runs, "--out", tmp_path / "out")
    assert [row["name"] for row in read(tmp_path / "out")["rows"][:2]] == ["joint", "uniform"]
    command(monkeypatch, "compare", runs[1], "--out", tmp_path / "out")
    assert read(tmp_path / "out")["baseline"] == "uniform"
    command(monkeypatch, "compare", *runs, "--seeds", "3", "--out", tmp_path / "out", code=2)
    assert "--seeds cannot go with finished runs" in capsys.readouterr().err
    command(monkeypatch, "compare", code=2)


def test_ranks_over_tasks(tmp_path, monkeypatch, capsys):
    for task, dices in (("one", (0.5, 0.6)), ("two", (0.7, 0.6))):
        runs = [
            finished_run(tmp_path / task / s, {"a": d}, strategy=s)
            for s, d in zip(("joint", "cggm"), dices, strict=True)
        ]
        command(monkeypatch, "compare", *runs, "--out", tmp_path / f"{task}-out")
    outs = (tmp_path / "one-out", tmp_path / "two-out")
    command(monkeypatch, "rank", *outs, "-o", tmp_path / "rank.md")
    lines = (tmp_path / "rank.md").read_text().splitlines()
    assert "| joint | 2 (0.500) | 1 (0.700) | 1.50 |" in lines
    command(monkeypatch, "rank", tmp_path, code=1)
    assert "holds no comparison" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "0", "x", "-1", "1.5"])
def test_seeds_that_are_none(text):
    with pytest.raises(ConfigError, match="--seeds"):
        parse_seeds(text)


def test_a_strategy_that_learns_from_a_run_waits_for_it(shelf, tmp_path, monkeypatch, capsys):
    for seed in (0, 1):
        finished_run(shelf / "unimodal_ensemble" / f"seed-{seed}", {"a": 0.4}, strategy="unimodal_ensemble", seed=seed)
        finished_run(shelf / "umt" / f"seed-{seed}", {"a": 0.6}, strategy="umt", seed=seed)
    out = tmp_path / "out"
    compare(monkeypatch, out, "--strategies", "umt", "--seeds", "2", "--parallel", "3")
    assert [row["name"] for row in read(out)["rows"][:2]] == ["unimodal_ensemble", "umt"]
    log = (out / "runs" / "umt" / "seed-1.log").read_text()
    assert f"strategy.teacher={out / 'runs' / 'unimodal_ensemble' / 'seed-1'}" in log


def test_without_its_teacher_a_run_is_not_started(shelf, tmp_path, monkeypatch, capsys):
    finished_run(shelf / "joint" / "seed-0", {"a": 0.5})
    finished_run(shelf / "umt" / "seed-0", {"a": 0.6}, strategy="umt")
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint,umt", "--seeds", "1")
    reasons = [row["reason"] for row in read(tmp_path / "out")["excluded"]]
    assert "no such luck" in reasons[0]
    assert reasons[1].startswith("its teacher ")
    assert reasons[1].endswith(" failed")


def test_on_a_cluster_each_run_is_submitted_once_until_it_is_done(shelf, tmp_path, monkeypatch, capsys):
    out, put = tmp_path / "out", stand_ins(tmp_path, monkeypatch)
    words = "--strategies", "joint,umt", "--seeds", "1", "--launcher", "slurm", "--sbatch", "partition=gpu"
    put("sbatch", "7")
    put("squeue")
    compare(monkeypatch, out, *words, "--dry-run")
    said = capsys.readouterr().out
    assert "#SBATCH --array=0-1\n" in said
    assert "#SBATCH --partition=gpu\n" in said
    assert f"\n# {out / 'runs' / 'joint' / 'seed-0'}\ttrain\t--task\t" in said
    assert not (tmp_path / "sbatch.txt").exists()
    assert not out.exists()
    compare(monkeypatch, out, *words, code=75)
    runs = [(out / "slurm" / n / "runs.tsv").read_text() for n in ("1", "2")]
    teachers = [line.split("\t")[0] for line in runs[0].splitlines()]
    assert [Path(run).parent.name for run in teachers] == ["joint", "unimodal_ensemble"]
    assert runs[1].split("\t")[0] == str(out / "runs" / "umt" / "seed-0")
    # The run that learns from another waits for the job of that one.
    assert (tmp_path / "sbatch.txt").read_text().splitlines() == [
        f"--parsable {out / 'slurm' / '1' / 'array.sh'}",
        f"--parsable --dependency=afterany:7 {out / 'slurm' / '2' / 'array.sh'}",
    ]
    (out / "slurm" / "2" / "job.txt").write_text("8\n")
    put("squeue", "7 0 RUNNING\n7 1 RUNNING\n8 0 PENDING")
    capsys.readouterr()
    compare(monkeypatch, out, *words, code=75)
    assert "0 of 3 runs are done, 1 pending, 2 running" in capsys.readouterr().out
    assert len((tmp_path / "sbatch.txt").read_text().splitlines()) == 2
    # One is done, one has failed, which is said, and that one is submitted again.
    finished_run(out / "runs" / "joint" / "seed-0", {"a": 0.5})
    (out / "runs" / "unimodal_ensemble" / "seed-0.log").write_text("DataError: no luck\nthe end\n")
    put("squeue", "8 0 PENDING")
    compare(monkeypatch, out, *words, code=75)
    said = " ".join(capsys.readouterr().out.split())
    assert "unimodal_ensemble, seed-0 ended before it was done, again: DataError: no luck" in said
    assert "submitted 1 run as job 7" in said
    for strategy in ("unimodal_ensemble", "umt"):
        finished_run(out / "runs" / strategy / "seed-0", {"a": 0.6}, strategy=strategy)
    compare(monkeypatch, out, *words)
    assert len(read(out)["runs"]) == 3


def test_options_of_a_cluster_go_with_a_cluster(shelf, tmp_path, monkeypatch, capsys):
    compare(monkeypatch, tmp_path / "out", "--strategies", "joint", "--sbatch", "time=1:00:00", code=2)
    assert "--launcher slurm" in capsys.readouterr().err
    compare(
        monkeypatch, tmp_path / "out", "--strategies", "joint", "--launcher", "slurm", "--sbatch", "array=1", code=1
    )
    assert "--sbatch array is set by the script itself" in capsys.readouterr().err
