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
    assert starved.severity == "warning" and starved.figures["data_share"] == pytest.approx(1 / 3)
    assert "--config.data.workers=4" in starved.causes[0]


def test_no_evaluation(copy):
    config = json.loads((copy / "config.json").read_text())
    config["train"]["eval_every"] = 0
    (copy / "config.json").write_text(json.dumps(config))
    rewrite(copy, lambda row: {key: value for key, value in row.items() if not key.startswith("eval/")})
    assert "config.train.eval_every=0" in findings(copy)[0]["no_evaluation"].message


def test_spikes_in_a_log(copy):
    rewrite(copy, lambda row: row | ({"mlm_loss": 6.0, "loss": 6.0} if row["step"] in (150, 180, 220) else {}))
    found, _ = findings(copy)
    assert found["loss_spikes"].severity == "warning" and "diverged" not in found
    assert "3 times (at step 150, 180, 220)" in found["loss_spikes"].message


@pytest.mark.full
def test_spikes(chain_corpus, tmp_path, monkeypatch):
    batch = loader.Stream.batch

    def with_bad_ones(self, step, *args):
        found = batch(self, step, *args)
        if step in (150, 180, 220):
            found["masked_labels"] = np.where(found["masked_labels"] == 7, 8, 7).astype(np.int32)
        return found

    monkeypatch.setattr(loader.Stream, "batch", with_bad_ones)
    found, _ = findings(trained(recipe(chain_corpus, train__log_every=1), tmp_path / "run"))
    assert found["loss_spikes"].severity == "warning"
    assert "3 times (at step 151, 181, 221)" in found["loss_spikes"].message
    assert "diverged" not in found


def test_stopped_and_young(copy):
    rewrite(copy, dict, lambda rows: rows[:4])
    found, text = findings(copy)
    assert found["stopped_early"].severity == "warning" and "step 20 of 300" in found["stopped_early"].message
    assert found["too_young"].severity == "note" and "stuck_at_unigram" not in found
    with open(copy / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found, text = findings(copy)
    assert "stopped_early" not in found and "training now" in text
