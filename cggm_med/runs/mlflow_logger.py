"""The run logger for MLflow: a database in the run's folder, or the tracking server that the environment names."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from cggm_med.config import Tree, flat
from cggm_med.errors import MissingExtra
from cggm_med.files import write_text
from cggm_med.runs.loggers import Record, RunLogger, numbers

EXPERIMENT = "cggm-med"
MAX_PARAMETERS = 100  # that MLflow takes at once
MAX_LENGTH = 500  # of a parameter, which every tracking server of the last years takes
# A number that every record of a kind has: by these it is known what a resumed run has logged already.
ALWAYS = {"train": "train/loss", "validation": "validation/best/step"}


class MLflow(RunLogger):
    """Metrics by step, settings as parameters, pictures as artefacts.

    Without ``MLFLOW_TRACKING_URI`` all of it lies in the run's folder ``mlflow``, and no host is asked. A resumed run
    continues the same MLflow run; steps that were logged before are kept as they are.
    """

    def __init__(self) -> None:
        # Read when the package is imported; otherwise it looks a host up, whatever the tracking address is.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            import alembic  # noqa: F401 - the database needs both, and MLflow says so only when it is opened
            import sqlalchemy  # noqa: F401
            from mlflow import entities
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise MissingExtra("logger 'mlflow'", error.name or "mlflow", "mlflow") from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it creates
        self.entities, self.make_client = entities, MlflowClient

    def start(self, folder: Path, config: Tree, step: int) -> None:
        """Create the MLflow run, or open the one that a resumed run has begun."""
        self.folder = folder.resolve() / "mlflow"
        self.folder.mkdir(exist_ok=True)
        elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = self.make_client(tracking_uri=elsewhere or f"sqlite:///{self.folder / 'mlflow.db'}")
        known = self.folder / "run_id"
        if known.exists():
            self.run = known.read_text().strip()
            self.client.update_run(self.run, status="RUNNING")
        else:
            artifacts = None if elsewhere else (self.folder / "artifacts").as_uri()
            experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT, artifacts)
            self.run = self.client.create_run(experiment, run_name=folder.resolve().name).info.run_id
            write_text(known, self.run)
            parameters = iter(self.entities.Param(k, str(v)[:MAX_LENGTH]) for k, v in flat(config).items())
            while some := list(islice(parameters, MAX_PARAMETERS)):
                self.client.log_batch(self.run, params=some)
        self.logged = {kind: self._last_step(name) for kind, name in ALWAYS.items()}

    def record(self, record: Record) -> None:
        """Log every number under its name."""
        step = record["step"]
        if step <= self.logged.get(record["kind"], -1):
            return
        named = {f"{record['kind']}/{name}": float(value) for name, value in numbers(record).items()}
        self.client.log_batch(self.run, metrics=self._metrics(named.items(), step))

    def picture(self, file: Path, step: int) -> None:
        """Keep it as an artefact."""
        self.client.log_artifact(self.run, str(file), "figures")

    def close(self, error: BaseException | None) -> None:
        """Say how the run ended."""
        status = "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"
        self.client.set_terminated(self.run, status)

    def _experiment(self, name: str, artifacts: str | None) -> str:
        known = self.client.get_experiment_by_name(name)
        return str(known.experiment_id if known else self.client.create_experiment(name, artifact_location=artifacts))

    def _last_step(self, name: str) -> int:
        return max((metric.step for metric in self.client.get_metric_history(self.run, name)), default=-1)

    def _metrics(self, values: Iterable[tuple[str, float]], step: int) -> list[Any]:
        now = int(1000 * time.time())
        # What MLflow does not take in a name, such as a percent sign, becomes an underscore.
        return [self.entities.Metric(re.sub(r"[^\w\-. :/]", "_", name), value, now, step) for name, value in values]
