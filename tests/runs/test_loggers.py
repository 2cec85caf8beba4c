"""Run loggers: all receive every record, none can change or end a training, and TensorBoard's files can be read."""

import builtins
import io
import json
import math

import pytest
from PIL import Image

from cggm_med import registry
from cggm_med.errors import MissingExtra, OutputError, UnknownName
from cggm_med.runs.folder import RunFolder
from cggm_med.runs.loggers import RunLog, RunLogger, TensorBoard, make_loggers, numbers

RECORDS = [
    {"kind": "train", "step": 10, "epoch": 0, "loss": 0.5, "losses": {"task": 0.5}, "score": {"t1": 0.25, "t2": None}},
    {"kind": "validation", "step": 10, "epoch": 0, "scores": {"Dice": 0.75}},
    {"kind": "train", "step": 20, "epoch": 1, "loss": 0.4, "losses": {"task": 0.4}, "score": {"t1": 0.5, "t2": 0.5}},
]


class Recorder(RunLogger):
    """Remembers its calls, and fails where it is told to."""

    def __init__(self, fails_in="", error=ValueError):
        self.calls, self.fails_in, self.error = [], fails_in, error

    def call(self, name, *values):
        self.calls.append((name, *values))
        if name == self.fails_in:
            raise self.error("no\nconnection")

    def start(self, folder, config, step):
        self.call("start", folder, config, step)

    def record(self, record):
        self.call("record", record)

    def picture(self, file, step):
        self.call("picture", file.name, step)

    def close(self, error):
        self.call("close", error)


def log(folder, step=0, records=RECORDS, **loggers):
    said = []
    with RunLog(loggers, folder, {"task": {"name": "toy"}}, step, said.append) as run_log:
        for record in records:
            run_log(record)
    return said


def test_every_logger_receives_every_record_between_start_and_close(tmp_path):
    one, other = Recorder(), Recorder()
    assert log(tmp_path, step=5, one=one, other=other) == []
    expected = [("start", tmp_path, {"task": {"name": "toy"}}, 5), *(("record", r) for r in RECORDS), ("close", None)]
    assert one.calls == other.calls == expected
    assert RunFolder(tmp_path).read_metrics() == RECORDS


@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize(("place", "step"), [("start", 0), ("record", 10), ("close", 20)])
def test_a_logger_that_fails_is_switched_off_and_the_run_says_so(place, step, error, tmp_path):
    bad, good = Recorder(place, error), Recorder()
    said = log(tmp_path, bad=bad, good=good)
    reason = f"{error.__name__}: no connection"
    warning = f"warning: logger 'bad' failed at step {step} and was switched off: {reason}"
    assert said == [f"{warning}; training continues, and {tmp_path / 'metrics.jsonl'} has every record", warning]
    assert [name for name, *_ in good.calls] == ["start", "record", "record", "record", "close"]
    own = [name for name, *_ in bad.calls]
    assert own[: own.index(place) + 1][-1] == place
    assert own[own.index(place) + 1 :] == ["close"]  # it may still let go of what it holds
    kept = RunFolder(tmp_path).read_metrics()
    assert [record for record in kept if record["kind"] != "logger"] == RECORDS
    notes = [record for record in kept if record["kind"] == "logger"]
    assert notes == [{"kind": "logger", "step": step, "logger": "bad", "error": reason}]


def test_loggers_are_closed_when_the_training_ends_with_an_error(tmp_path):
    logger = Recorder()
    with pytest.raises(KeyboardInterrupt), RunLog({"one": logger}, tmp_path, {}, 0, print):
        raise KeyboardInterrupt
    assert [name for name, *_ in logger.calls] == ["start", "close"]


def test_without_metrics_there_is_no_training(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"metrics\.jsonl"):
        log(tmp_path)


def test_other_processes_log_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("cggm_med.distributed.rank", lambda: 1)
    logger = Recorder()
    log(tmp_path, one=logger)
    assert logger.calls == []
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_a_record():
    assert numbers(RECORDS[0]) == {"loss": 0.5, "losses/task": 0.5, "score/t1": 0.25}
    assert numbers(RECORDS[1]) == {"scores/Dice": 0.75}


def test_names_are_checked_before_anything_is_read():
    with pytest.raises(UnknownName, match="no logger 'tensorbord'. Did you mean 'tensorboard'"):
        make_loggers(["tensorbord"])
    assert "tensorboard" in registry.names(registry.LOGGERS)


def test_tensorboard_says_what_is_missing(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith(("torch.utils.tensorboard", "tensorboard")):
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingExtra, match=r"logger 'tensorboard' needs tensorboard: pip install 'cggm-med\[tensorboard\]'"
    ):
        TensorBoard()


def test_tensorboard_reads_back_what_was_logged_and_a_resume_replaces_what_came_later(tmp_path):
    """Independent authority: TensorBoard's own reader."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log(tmp_path, tensorboard=TensorBoard())
    again = {**RECORDS[2], "loss": 0.3}
    log(tmp_path, step=10, records=[again], tensorboard=TensorBoard())
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()

    def curve(name):
        return [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]

    assert curve("train/loss") == [(10, 0.5), (20, 0.3)]
    assert curve("train/score/t2") == [(20, 0.5)]
    assert curve("validation/scores/Dice") == [(10, 0.75)]
    assert not any(math.isnan(event.value) for name in events.Tags()["scalars"] for event in events.Scalars(name))


def test_pictures_follow_the_records(tmp_path):
    """Independent authority: TensorBoard's own reader; the red pixel is red, and at its place."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    picture = Image.new("RGB", (3, 2))
    picture.putpixel((2, 0), (255, 0, 0))
    picture.save(tmp_path / "learning.png")
    recorder = Recorder()
    with RunLog({"a": recorder, "tensorboard": TensorBoard()}, tmp_path, {}, 0, print) as run_log:
        run_log(RECORDS[0])
        run_log.pictures([tmp_path / "learning.png"])
    assert [call[0] for call in recorder.calls] == ["start", "record", "picture", "close"]
    assert recorder.calls[2] == ("picture", "learning.png", 10)
    (event,) = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("figures/learning")
    read = Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB")
    assert (event.step, read.size, read.tobytes()) == (10, (3, 2), picture.tobytes())


def test_the_lines_of_metrics_are_those_of_json(tmp_path):
    log(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(json.dumps(record) + "\n" for record in RECORDS)
