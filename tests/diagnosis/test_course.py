"""The course of a run: data that comes late, spikes, plans, runs that stopped."""

import fcntl
import json

import numpy as np
import pytest

from bert_jax.data import loader
from tests.diagnosis.conftest import findings, recipe, rewrite, trained


def test_a_starved_pipeline(copy):
    rewrite(copy, lambda row: row | {"time/data": 1.0, "time/step": 2.0})
    starved = findings(copy)[0]["starved"]
    assert starved.severity == "warning" and starved.metrics["data_share"] == pytest.approx(1 / 3)
    assert "--config.data.workers=4" in starved.causes[0]


def test_a_slow_host(copy):
    def named(host, ratio):
        return {"slowest_host": host, "slowest_host_seconds": 0.3, "slowest_host_ratio": ratio}

    rewrite(copy, lambda row: row | named(3 if row["step"] % 3 else 0, 1.6))
    slow = findings(copy)[0]["slow_host"]
    assert slow.severity == "warning" and slow.message.startswith("Process 3 holds the others up: in 67 %")
    assert "up to 1.6 times as long" in slow.message and slow.metrics["process"] == 3
    rewrite(copy, lambda row: row | named(3, 1.1))
    assert "slow_host" not in findings(copy)[0]
    rewrite(copy, lambda row: row | named(row["step"] // 5 % 4, 1.6))  # in turn: none of them is to blame
    assert "slow_host" not in findings(copy)[0]


def test_a_run_that_hung(copy):
    rewrite(copy, dict, lambda rows: rows[:4])
    for process in (0, 12):
        (copy / f"hang-{process}.txt").write_text("stacks")
    cause = findings(copy)[0]["stopped_early"].causes[0]
    assert cause.startswith("a step hung") and "hang-0.txt, hang-12.txt say" in cause


def test_no_evaluation(copy):
    config = json.loads((copy / "config.json").read_text())
    config["train"]["eval_every"] = 0
    (copy / "config.json").write_text(json.dumps(config))
    rewrite(copy, lambda row: {key: value for key, value in row.items() if not key.startswith("eval/")})
    assert "config.train.eval_every=0" in findings(copy)[0]["no_evaluation"].message


def test_spikes_in_a_log(copy):
    rewrite(copy, lambda row: row | ({"mlm_loss": 6.0, "loss": 6.0} if row["step"] in (150, 180, 220) else {}))
    by_name, _ = findings(copy)
    assert by_name["loss_spikes"].severity == "warning" and "diverged" not in by_name
    assert "3 times (at step 150, 180, 220)" in by_name["loss_spikes"].message


@pytest.mark.full
def test_spikes(chain_corpus, tmp_path, monkeypatch):
    batch = loader.Stream.batch

    def with_bad_ones(self, step, *args):
        by_name = batch(self, step, *args)
        if step in (150, 180, 220):
            by_name["masked_labels"] = np.where(by_name["masked_labels"] == 7, 8, 7).astype(np.int32)
        return by_name

    monkeypatch.setattr(loader.Stream, "batch", with_bad_ones)
    by_name, _ = findings(trained(recipe(chain_corpus, train__log_every=1), tmp_path / "run"))
    assert by_name["loss_spikes"].severity == "warning"
    assert "3 times (at step 151, 181, 221)" in by_name["loss_spikes"].message
    assert "diverged" not in by_name


def test_stopped_and_young(copy):
    rewrite(copy, dict, lambda rows: rows[:4])
    by_name, text = findings(copy)
    assert by_name["stopped_early"].severity == "warning" and "step 20 of 300" in by_name["stopped_early"].message
    assert by_name["too_young"].severity == "note" and "stuck_at_unigram" not in by_name
    with open(copy / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        by_name, text = findings(copy)
    assert "stopped_early" not in by_name and "training now" in text
