"""MLflow and Weights & Biases receive what is logged, offline, and a resumed run is the same run there.

The packages themselves are optional: where one is not installed, a stand-in receives the calls that its adapter makes.
"""

import os
import socket
import sys
import types

import pytest
from PIL import Image

from cggm_med.errors import MissingExtra
from cggm_med.runs.loggers import RunLog, make_loggers
from cggm_med.runs.mlflow_logger import MLflow
from cggm_med.runs.wandb_logger import WandB

RECORDS = [
    {"kind": "train", "step": 10, "epoch": 0, "loss": 0.5, "score": {"t1": 0.25, "t2": None}},
    {"kind": "validation", "step": 10, "epoch": 0, "scores": {"Dice, 95 %": 0.75}, "best": {"score": 0.75, "step": 10}},
    {"kind": "train", "step": 20, "epoch": 1, "loss": 0.4, "score": {"t1": 0.5, "t2": 0.5}},
]
CONFIG = {"task": {"name": "toy"}, "many": {f"k{i}": i for i in range(150)}, "long": "x" * 2000}
ENVIRONMENT = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY"),
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ERROR_REPORTING"),
)


@pytest.fixture(autouse=True)
def nothing_is_looked_up(monkeypatch):
    """No variable says where to, and every look-up of a host fails the test."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **more: asked.append(address))
    yield
    assert asked == []


def log(folder, logger, records, step=0, error=None):
    """A sitting of a run, at whose end a picture is passed on, or which ends with an error."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "learning.png")
    said = []
    try:
        with RunLog({"one": logger}, folder, CONFIG, step, said.append) as run_log:
            for record in records:
                run_log(record)
            if error is not None:
                raise error
            run_log.pictures([folder / "learning.png"])
    except (KeyboardInterrupt, ArithmeticError):
        assert error is not None
    assert said == []


class Server:
    """Stands for a tracking server of MLflow: the calls that the adapter makes, and what they leave."""

    def __init__(self):
        self.experiments, self.runs, self.addresses = {}, {}, []

    def __call__(self, tracking_uri):
        self.addresses.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name, artifact_location):
        self.experiments[name] = types.SimpleNamespace(experiment_id="1", place=artifact_location)
        return "1"

    def create_run(self, experiment, run_name):
        self.runs["r1"] = {"name": run_name, "metrics": [], "params": [], "files": [], "status": "RUNNING"}
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))

    def log_batch(self, run, metrics=(), params=()):
        assert len(params) <= 100
        assert all(not set(metric.key) & set(",%") for metric in metrics)
        self.runs[run]["metrics"] += metrics
        self.runs[run]["params"] += params

    def log_artifact(self, run, file, place):
        self.runs[run]["files"].append((file, place))

    def get_metric_history(self, run, name):
        return [metric for metric in self.runs[run]["metrics"] if metric.key == name]

    def update_run(self, run, status):
        self.runs[run]["status"] = status

    set_terminated = update_run


@pytest.fixture
def server(monkeypatch):
    found = Server()

    def metric(key, value, timestamp, step):
        return types.SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

    entities = types.SimpleNamespace(Metric=metric, Param=lambda key, value: (key, value))
    package = types.ModuleType("mlflow")
    package.entities = entities
    tracking = types.ModuleType("mlflow.tracking")
    tracking.MlflowClient = found
    for name, module in {"mlflow": package, "mlflow.tracking": tracking, "alembic": None, "sqlalchemy": None}.items():
        monkeypatch.setitem(sys.modules, name, module or types.ModuleType(name))
    return found


def test_mlflow_gets_numbers_settings_and_pictures(server, tmp_path):
    log(tmp_path / "run", MLflow(), RECORDS)
    run = server.runs["r1"]
    assert [(m.key, m.value, m.step) for m in run["metrics"]] == [
        ("train/loss", 0.5, 10),
        ("train/score/t1", 0.25, 10),
        ("validation/scores/Dice_ 95 _", 0.75, 10),
        ("validation/best/score", 0.75, 10),
        ("validation/best/step", 10.0, 10),
        ("train/loss", 0.4, 20),
        ("train/score/t1", 0.5, 20),
        ("train/score/t2", 0.5, 20),
    ]
    assert len(run["params"]) == 152
    assert ("task.name", "toy") in run["params"]
    assert run["files"] == [(str(tmp_path / "run" / "learning.png"), "figures")]
    assert (run["name"], run["status"]) == ("run", "FINISHED")
    assert server.addresses == [f"sqlite:///{tmp_path / 'run' / 'mlflow' / 'mlflow.db'}"]
    assert server.experiments["cggm-med"].place == (tmp_path / "run" / "mlflow" / "artifacts").as_uri()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_resumed_run_is_the_same_for_mlflow_and_keeps_what_it_has(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example")
    log(tmp_path / "run", MLflow(), RECORDS[:2], error=KeyboardInterrupt())
    assert server.runs["r1"]["status"] == "KILLED"
    log(tmp_path / "run", MLflow(), RECORDS, step=5, error=ArithmeticError())
    assert server.runs["r1"]["status"] == "FAILED"
    assert [m.step for m in server.get_metric_history("r1", "train/loss")] == [10, 20]
    assert len(server.get_metric_history("r1", "validation/best/step")) == 1
    assert len(server.runs["r1"]["params"]) == 152
    assert {*server.addresses} == {"http://tracking.example"}
    assert server.experiments["cggm-med"].place is None


@pytest.mark.filterwarnings("ignore")  # what the package does inside is its own affair
def test_mlflow_itself_reads_back_what_was_logged(tmp_path):
    """Independent authority: MLflow's own database and client."""
    pytest.importorskip("alembic")
    client = pytest.importorskip("mlflow.tracking").MlflowClient
    log(tmp_path / "run", MLflow(), RECORDS[:2], error=KeyboardInterrupt())
    log(tmp_path / "run", MLflow(), RECORDS, step=5)
    reader = client(tracking_uri=f"sqlite:///{tmp_path / 'run' / 'mlflow' / 'mlflow.db'}")
    (run,) = reader.search_runs([reader.get_experiment_by_name("cggm-med").experiment_id])
    assert (run.info.status, run.data.params["many.k149"]) == ("FINISHED", "149")
    assert [(m.step, m.value) for m in reader.get_metric_history(run.info.run_id, "train/loss")] == [
        (10, 0.5),
        (20, 0.4),
    ]
    assert (tmp_path / "run" / "mlflow" / "artifacts" / run.info.run_id / "artifacts/figures/learning.png").exists()


class Service:
    """Stands for the package ``wandb``: what its runs are begun with, and what they get."""

    def __init__(self):
        self.begun, self.logged, self.ended = [], [], []

    def init(self, *, dir, settings, **more):
        self.begun.append({**more, **settings})
        os.makedirs(os.path.join(dir, "wandb", f"offline-run-2026{len(self.begun)}-{more['id']}"))
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        self.ended.append(exit_code)

    Settings = dict
    Image = str


@pytest.fixture
def service(monkeypatch):
    found = Service()
    monkeypatch.setitem(sys.modules, "wandb", found)
    return found


def test_wandb_gets_numbers_settings_and_pictures_and_stays_offline(service, tmp_path):
    log(tmp_path / "run", WandB(), RECORDS[:1])
    assert service.logged == [
        {"train/loss": 0.5, "train/score/t1": 0.25, "step": 10},
        {"figures/learning": str(tmp_path / "run" / "learning.png"), "step": 10},
    ]
    (begun,) = service.begun
    assert (begun["mode"], begun["project"], begun["name"]) == ("offline", "cggm-med", "run")
    assert begun["config"] == CONFIG
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"


def test_a_resumed_run_has_the_same_id_for_wandb(service, tmp_path, monkeypatch):
    log(tmp_path / "run", WandB(), RECORDS[:2], error=KeyboardInterrupt())
    monkeypatch.setenv("WANDB_MODE", "online")
    log(tmp_path / "run", WandB(), RECORDS, step=5)
    log(tmp_path / "other", WandB(), [])
    ids = [begun["id"] for begun in service.begun]
    assert ids[0] == ids[1] != ids[2]
    assert {begun["resume"] for begun in service.begun} == {"allow"}
    assert [begun["mode"] for begun in service.begun] == ["offline", "online", "online"]
    assert service.ended == [1, 0, 0]


@pytest.mark.filterwarnings("ignore")  # what the package does inside is its own affair
def test_wandb_itself_keeps_both_sittings_under_one_id(tmp_path):
    """Independent authority: the files that ``wandb sync`` reads."""
    package = pytest.importorskip("wandb")
    log(tmp_path / "run", WandB(), RECORDS[:2], error=KeyboardInterrupt())
    log(tmp_path / "run", WandB(), RECORDS, step=5)
    package.teardown()  # its own process writes the files, until this one exits
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1
    assert all(b"train/loss" in file.read_bytes() for file in files)
    assert len(list((tmp_path / "run" / "wandb").rglob("*/media/images/figures/learning*.png"))) == 1


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_what_is_missing_is_said_with_the_extra_that_brings_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    for other in ("alembic", "sqlalchemy"):
        monkeypatch.setitem(sys.modules, other, types.ModuleType(other))
    with pytest.raises(MissingExtra, match=rf"logger '{name}' needs {name}: pip install 'cggm-med\[{name}\]'"):
        make_loggers([name])
