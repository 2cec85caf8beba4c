"""One training on a cluster, and tables of papers and benchmarks: what is submitted, and what is said of it then."""

import json

import pytest
from helpers.command_line import command, set_options
from helpers.finished import finished_run
from helpers.slurm import stand_ins
from helpers.small_runs import small_settings


@pytest.fixture
def put(tmp_path, monkeypatch):
    """See ``helpers.slurm.stand_ins``; what is submitted is job 7, and the queue is empty."""
    put = stand_ins(tmp_path, monkeypatch)
    put("sbatch", "7")
    put("squeue")
    return put


@pytest.fixture
def train(tmp_path, monkeypatch, phantom, cache, capsys):
    """``train --launcher slurm`` of the small run into ``tmp_path/runs/a``; returns what it says."""

    def submit(*words, code=75, **changes):
        flags = set_options(small_settings(phantom, cache, **changes))
        where = "--out", tmp_path / "runs" / "a", "--launcher", "slurm"
        command(monkeypatch, "train", "--preset", "tiny", *where, *flags, *words, code=code)
        said = capsys.readouterr()
        return said.out + " ".join(said.err.split())

    return submit


def test_a_training_is_submitted_once_and_its_state_is_said_until_it_is_done(tmp_path, put, train):
    run, jobs = tmp_path / "runs" / "a", tmp_path / "runs" / "a.slurm"
    assert f"submitted 1 run as job 7, see {jobs}\n" in train("--sbatch", "time=1:00:00", "--allow-missing")
    assert "#SBATCH --time=1:00:00\n" in (jobs / "1" / "array.sh").read_text()
    folder, *words = (jobs / "1" / "runs.tsv").read_text().rstrip("\n").split("\t")
    assert folder == str(run)
    assert words[:7] == ["train", "--task", "brats2021", "--strategy", "cggm", "--out", str(run)]
    assert words[-1] == "data.allow_missing=True"
    put("squeue", "7 0 PENDING")
    again = "the same command again says how far it is\n"
    assert train("--allow-missing") == f"{run}: job 7 is pending; {again}"
    assert "with other settings, as job 7 (submitted != now): train.epochs=3 data.allow" in train(
        code=1, train__epochs="4"
    )
    finished_run(run, {"a": 0.5})
    results = (run / "results.json").rename(tmp_path / "results.json")
    (run / "log.txt").write_text("2026-01-02T03:04:05+00:00 step 3/12\n")
    put("squeue", "7 0 RUNNING")
    assert train("--allow-missing") == f"{run}: job 7 is running (step 3/12); {again}"
    results.rename(run / "results.json")
    done = tmp_path / "shown.json"
    assert train("--allow-missing", "--json", done, code=0).startswith(f"{run} is finished\n")
    assert json.loads(done.read_text())["cases"][0]["dice"] == 0.5
    assert len((tmp_path / "sbatch.txt").read_text().splitlines()) == 1


def test_a_training_that_scores_nothing_is_done_when_its_log_says_so(tmp_path, put, train):
    train()
    finished_run(tmp_path / "runs" / "a", {"a": 0.5})
    (tmp_path / "runs" / "a" / "results.json").unlink()
    (tmp_path / "runs" / "a" / "log.txt").write_text("2026-01-02T03:04:05+00:00 finished\n")
    assert train(code=0) == f"{tmp_path / 'runs' / 'a'} is finished\n"


def test_a_rehearsal_prints_the_script_and_leaves_nothing_behind(tmp_path, put, train):
    said = train("--dry-run", code=0)
    assert said.startswith("#!/bin/bash\n")
    assert "Written by 'cggm-med train --launcher slurm'" in said
    assert f"\n# {tmp_path / 'runs' / 'a'}\ttrain\t--task\tbrats2021\t" in said
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "sbatch.txt").exists()


def test_what_training_would_refuse_does_not_wait_in_a_queue(tmp_path, put, train):
    assert "data.validation" in train(code=1, data__validation="0", train__stop_after="2")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/bash\necho 'invalid partition' >&2\nexit 1\n")
    assert "sbatch failed: invalid partition" in train(code=1)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--launcher", "slurm"), "--launcher slurm needs --out RUN"),
        (("--sbatch", "time=1:00:00"), "--sbatch goes with --launcher slurm"),
        (("--launcher", "slurm", "--resume", "RUN"), "--launcher cannot go with --resume"),
    ],
)
def test_options_that_do_not_fit(words, said, tmp_path, monkeypatch, capsys):
    run = finished_run(tmp_path / "run", {"a": 0.5})
    command(monkeypatch, "train", *(str(run) if word == "RUN" else word for word in words), code=2)
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


@pytest.mark.parametrize(("name", "of"), [("reproduce", "cggm/iemocap"), ("benchmark", "brats2020-rfnet")])
def test_tables_are_trained_on_a_cluster_as_well(name, of, tmp_path, put, monkeypatch, capsys):
    words = name, of, "--phantom", "--out", tmp_path / "out", "--launcher", "slurm"
    command(monkeypatch, *words, code=75)
    assert "as job 7, see" in capsys.readouterr().out
    script = (tmp_path / "out" / "slurm" / "1" / "array.sh").read_text()
    assert f"Written by 'cggm-med {name} --launcher slurm'" in script
    assert ("--subsets all" in script) == (name == "benchmark")
