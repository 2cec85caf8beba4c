"""Following a run that is still training: what is shown as it grows, and when that ends."""

import io
import json
import os
import re
import time

import pytest
from helpers.command_line import command
from helpers.finished import finished_run
from rich.console import Console

from cggm_med.errors import CheckpointError, OutputError
from cggm_med.lock import alone
from cggm_med.report.watch import INTERVAL, QUIET, is_page, watch


def record(step, **more):
    return {"kind": "train", "step": step, "epoch": (step - 1) // 5, "loss": 1 / step, "losses": {}, **more}


def steps(first, last):
    return [record(step, seconds_per_step=60.0, factor={"flair": 1.0}) for step in range(first, last + 1)]


def validation(step, dice, best):
    scores = {"Dice WT": dice, "Dice mean": dice}
    return {"kind": "validation", "step": step, "epoch": 0, "scores": scores, "best": best}


@pytest.fixture
def run(tmp_path):
    """A run of ten steps that has not begun to train."""
    folder = finished_run(tmp_path / "run", {"a": 0.5}, settings=["train.epochs=2", "train.steps_per_epoch=5"])
    (folder / "results.json").unlink()
    return folder


def followed(run, *events, page=None):
    """What the terminal showed, and the page after each look; an event happens in each pause, the last is Ctrl-C."""
    shown, pages, happen = io.StringIO(), [], iter(events)
    page = page or run / "progress.html"

    def pause(seconds):
        assert seconds == INTERVAL
        pages.append(page.read_text() if page.exists() else None)
        if (event := next(happen, None)) is None:
            raise KeyboardInterrupt
        event()

    watch(run, None if page.parent == run else page, Console(file=shown, width=200), pause=pause)
    return shown.getvalue().splitlines(), [*pages, page.read_text() if page.exists() else None]


def logging(run, *records):
    def event():
        with (run / "metrics.jsonl").open("a") as file:
            file.write("".join(json.dumps(each) + "\n" for each in records))

    return event


def saying(run, line):
    def event():
        with (run / "log.txt").open("a") as file:
            file.write(f"2026-01-02T03:04:05+00:00 {line}\n")

    return event


def test_a_run_is_followed_from_its_first_step_to_its_end(run):
    """Six steps of a minute are left after the fourth of ten, and five after the fifth."""
    best = {"score": 0.25, "step": 5}
    lines, pages = followed(
        run,
        logging(run, *steps(1, 4)),
        lambda: None,
        logging(run, *steps(5, 5), validation(5, 0.25, best)),
        saying(run, "finished, see results.md"),
    )
    assert lines[1:] == [
        "step 4/10  0:06:00 left  loss 0.250  factors flair=1.00",
        "step 5/10  0:05:00 left  loss 0.200  factors flair=1.00",
        "step 5: validation Dice WT 0.250, Dice mean 0.250",
        "finished, see results.md",
    ]
    assert pages[0] is None
    assert pages[1] == pages[2]
    assert "<dd>4 of 10, epoch 1 of 2</dd>" in pages[1]
    assert "best validation" not in pages[1]
    assert pages[1].count('src="data:image/png;base64,') == 2
    # A wide window enlarges neither of them, and both have letters of one size.
    assert "max-width: min(100%, 60rem)" in re.search(r"figure\.curves \{[^}]*", pages[1])[0]
    assert "figure.curves img" not in pages[1]
    for said in ("<dd>5 of 10, epoch 1 of 2</dd>", "<dd>0:05:00</dd>", "<dd>0.250 at step 5</dd>"):
        assert said in pages[3]
    assert [page.count('http-equiv="refresh"') for page in pages[1:]] == [1, 1, 1, 0]
    assert "<p>finished, see results.md</p>" in pages[-1]


def test_a_run_that_is_prepared_is_waited_for(run):
    settings = (run / "config.yaml").read_text()
    (run / "config.yaml").unlink()
    with pytest.raises(CheckpointError, match="is not a run folder"):
        followed(run)
    with alone(run):
        lines, pages = followed(run)
        assert lines == [f"{run} checks and preprocesses its cases; waiting for the training"]
        assert pages == [None, None]
        begin = logging(run, *steps(1, 4))
        lines, pages = followed(run, lambda: (run / "config.yaml").write_text(settings), begin)
    assert lines[-1].startswith("step 4/10")
    assert "4 of 10" in pages[-1]


def test_ctrl_c_leaves_the_run_and_the_page_that_the_next_call_replaces(run):
    logging(run, *steps(1, 4))()
    lines, _ = followed(run)
    assert lines[-1].startswith("step 4/10")
    assert is_page(run / "progress.html")
    assert not (run / "log.txt").exists()
    logging(run, *steps(5, 6))()
    lines, pages = followed(run)
    assert [line for line in lines if line.startswith("step")] == [line for line in lines if line.startswith("step 6")]
    assert "6 of 10" in pages[-1]


def test_what_a_resumed_run_repeats_is_shown_and_a_half_line_waits(run):
    def again():
        (run / "metrics.jsonl").write_text(json.dumps(steps(2, 2)[0]) + '\n{"kind": "tr')

    lines, _ = followed(run, logging(run, *steps(1, 4)), again)
    assert [line.split()[1] for line in lines if line.startswith("step")] == ["4/10", "2/10"]


def test_a_run_that_says_nothing_for_long_may_have_been_killed(run):
    logging(run, *steps(1, 1))()
    long_ago = time.time() - QUIET - 60
    os.utime(run / "metrics.jsonl", (long_ago, long_ago))
    lines, _ = followed(run, lambda: None, lambda: None)
    assert sum(f"cggm-med train --resume {run}" in line for line in lines) == 1


def test_a_file_of_somebody_else_stays(run, tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(OutputError, match="this command did not write it"):
        followed(run, page=tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_the_command_follows_one_run(run, monkeypatch, capsys):
    logging(run, *steps(1, 4))()
    saying(run, "stopped by signal 15 after step 4")()
    command(monkeypatch, "report", run, "--watch")
    assert capsys.readouterr().out.splitlines()[-1] == "stopped by signal 15 after step 4"
    command(monkeypatch, "report", run, run, "--watch", code=2)
    assert "--watch follows one run" in capsys.readouterr().err
