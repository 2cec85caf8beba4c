"""What a person sees of a run, in a log file and in a terminal."""

from io import StringIO

import pytest
from rich.console import Console

from cggm_med.runs.progress import RunProgress

TRAIN = {
    "kind": "train",
    "step": 40,
    "loss": 1.2345,
    "factor": {"flair": 0.9, "t1": 1.125, "t1ce": 0.75, "t2": 1.2},
    "seconds_per_step": 61.0,
}
VALIDATION = {"kind": "validation", "step": 50, "scores": {"Dice WT": 0.75, "Dice mean": 0.625}}


def shown(*records, **console):
    """Everything that was written while the records came in."""
    file = StringIO()
    with RunProgress(Console(file=file, width=80, **console), first_step=0, steps=100) as progress:
        for record in records:
            progress(record)
    return file.getvalue()


def test_a_log_file_gets_one_plain_line_a_record():
    """60 steps of 61 s are left: 3660 s."""
    assert shown(TRAIN, VALIDATION, force_terminal=False).splitlines() == [
        "step 40/100  1:01:00 left  loss 1.234  factors flair=0.90 t1=1.12 t1ce=0.75 t2=1.20",
        "step 50: validation Dice WT 0.750, Dice mean 0.625",
    ]


def test_a_strategy_without_factors():
    record = {key: value for key, value in TRAIN.items() if key != "factor"}
    assert shown(record, force_terminal=False) == "step 40/100  1:01:00 left  loss 1.234\n"


def test_steps_that_were_left_out_are_told():
    text = shown({**TRAIN, "skipped_steps": 3.0}, {**TRAIN, "skipped_steps": 0.0}, force_terminal=False).splitlines()
    assert text[0].endswith("t2=1.20  3 steps left out: gradient not finite")
    assert text[1].endswith("t2=1.20")


def test_a_terminal_gets_a_bar_with_everything_in_it():
    text = shown(TRAIN, VALIDATION, force_terminal=True, color_system=None)
    assert "40/100" in text
    for part in ("1:01:00 left", "loss 1.234", "flair=0.90", "t1=1.12", "t1ce=0.75", "t2=1.20", "Dice mean 0.625"):
        assert part in text


def test_the_bar_is_gone_after_an_error():
    file = StringIO()
    console = Console(file=file, force_terminal=True)
    with pytest.raises(RuntimeError), RunProgress(console, first_step=0, steps=100):
        raise RuntimeError
    assert file.getvalue().rstrip("\n").endswith("\x1b[?25h"), "the cursor is hidden"


def test_a_resumed_run_starts_where_it_stopped():
    file = StringIO()
    with RunProgress(Console(file=file, force_terminal=True, color_system=None), first_step=70, steps=100):
        pass
    assert "70/100" in file.getvalue()
