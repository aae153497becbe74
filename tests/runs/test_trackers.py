"""Weights & Biases and MLflow get the rows of a run, and continue its run; what fails there does not end it."""

import sys
import types

import pytest

from bert_jax.runs import trackers

ROWS = [{"step": step, "loss": 1 / step, "eval/mlm_loss": 2.0, "mfu": None} for step in (1, 2, 3)]


class FakeRun:
    def __init__(self, **settings):
        self.settings, self.rows, self.finished = settings, [], False

    def log(self, values, step):
        self.rows.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.runs, module.Settings = [], dict
    module.init = lambda **settings: module.runs.append(FakeRun(**settings)) or module.runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_rows_go_to_one_run_that_is_continued(wandb, tmp_path):
    for rows in (ROWS[:2], ROWS[1:]):
        tracker = trackers.WandB({"model.num_layers": 2}, tmp_path, pytest.fail)
        for row in rows:
            tracker.write(row)
        tracker.close()
    first, second = wandb.runs
    assert first.settings["id"] == second.settings["id"] == (tmp_path / "wandb.id").read_text().strip()
    assert first.settings["config"] == {"model.num_layers": 2} and first.settings["resume"] == "allow"
    assert first.rows == [(row["step"], {"loss": row["loss"], "eval/mlm_loss": 2.0}) for row in ROWS[:2]]
    assert first.finished and second.finished and second.rows[0][0] == 2


def test_a_failure_is_one_warning(wandb, tmp_path):
    said = []
    wandb.init = lambda **settings: 1 / 0
    tracker = trackers.WandB({}, tmp_path, said.append)
    for row in ROWS:
        tracker.write(row)
    tracker.close()
    assert said == ["warning: wandb: division by zero; it gets no more rows of this run"]


def test_a_tracker_without_rows_opens_nothing(wandb, tmp_path):
    trackers.WandB({}, tmp_path, pytest.fail).close()
    assert not wandb.runs and not list(tmp_path.iterdir())


@pytest.mark.trackers
def test_the_real_mlflow_keeps_every_row(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow import MlflowClient

    for rows in (ROWS[:2], ROWS[1:]):
        tracker = trackers.MLflow({"model.num_layers": 2, "data.phases": ()}, tmp_path, pytest.fail)
        for row in rows:
            tracker.write(row)
        tracker.close()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    run = client.get_run((tmp_path / "mlflow.id").read_text().strip())
    assert run.data.params["model.num_layers"] == "2" and run.info.status == "FINISHED"
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert history == {row["step"]: row["loss"] for row in ROWS}


@pytest.mark.trackers
def test_the_real_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = trackers.WandB({"model.num_layers": 2}, tmp_path, pytest.fail)
    for row in ROWS:
        tracker.write(row)
    tracker.close()
    [folder] = (tmp_path / "wandb").glob("offline-run-*")
    assert folder.name.endswith((tmp_path / "wandb.id").read_text().strip())
    assert [path.stat().st_size > 0 for path in folder.glob("*.wandb")] == [True]
