"""Sends a run's rows to Weights & Biases or MLflow, for config.train.loggers; either is an optional package.

Both keep what they are given in the workdir unless their own variables say otherwise (WANDB_MODE, WANDB_PROJECT,
WANDB_API_KEY; MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME). A run that is continued continues its run there. No failure
of theirs ends a run: the first is a warning, and the rest of the rows is not sent.
"""

import logging
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from bert_jax import storage
from bert_jax.config.schema import is_number

_PROJECT = "bert_jax"  # for runs whose environment names none
_LONGEST_PARAMETER = 500  # characters that every MLflow server takes


class Tracker:
    """Sends rows to a service; subclasses say how. Opened at the first row, because the imports are slow.

    Args:
      config: the run's config, by dotted key.
      workdir: the run's workdir.
      say: called with each line that the user should see.
    """

    name = ""

    def __init__(self, config: Mapping[str, Any], workdir: pathlib.Path, say: Callable[[str], None]):
        self._config, self._workdir, self._say = config, workdir, say
        self._run: Any = None
        self._failed = False

    def write(self, row: Mapping) -> None:
        def send():
            if self._run is None:
                self._run = self._open()
            self._send(row["step"], {key: value for key, value in row.items() if key != "step" and is_number(value)})

        self._try(send)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self._run is not None:
            self._try(self._finish)

    def _try(self, action):
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # whatever a service or its client does must not end a run
            self._failed = True
            reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
            self._say(f"warning: {self.name}: {reason}; it gets no more rows of this run")

    def _identity(self, make: Callable[[], str]) -> str:
        """Returns the id of the run in the service: the one that WORKDIR/NAME.id holds, or a new one."""
        path = self._workdir / f"{self.name}.id"
        if path.exists():
            return path.read_text().strip()
        identity = make()
        storage.write_text(path, identity + "\n")
        return identity

    def _open(self) -> Any:
        raise NotImplementedError

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError


class WandB(Tracker):
    """Sends rows to Weights & Biases, as steps of one run. A step that the run has already is left out there."""

    name = "wandb"

    def _open(self):
        import wandb

        local = self._workdir if isinstance(self._workdir, pathlib.Path) else None
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            dir=local and str(local),
            id=self._identity(lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            name=os.environ.get("WANDB_NAME") or self._workdir.name,
            config=dict(self._config),
            settings=wandb.Settings(console="off"),
        )

    def _send(self, step, values):
        self._run.log(dict(values), step=step)

    def _finish(self):
        self._run.finish()


class MLflow(Tracker):
    """Sends rows to MLflow as metrics of one run, with the config as its parameters."""

    name = "mlflow"

    def _open(self):
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of each table of a new database
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._workdir.absolute()}/mlflow.db"
        self._client = client = MlflowClient(tracking_uri=uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
        new = []

        def make():
            experiment = client.get_experiment_by_name(name)
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
            new.append(client.create_run(experiment_id, run_name=self._workdir.name).info.run_id)
            return new[0]

        identity = self._identity(make)
        if new:
            parameters = [Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in self._config.items()]
            for first in range(0, len(parameters), 100):  # what a request may hold
                client.log_batch(identity, params=parameters[first : first + 100])
        else:
            client.update_run(identity, status="RUNNING")
        return identity

    def _send(self, step, values):
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(key, float(value), now, step) for key, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def _finish(self):
        self._client.set_terminated(self._run)
