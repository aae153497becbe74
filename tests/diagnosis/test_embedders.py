"""Diagnoses of embedders, each on a run that was broken on purpose."""

import pytest

from bert_jax.diagnosis import embedders, reading
from bert_jax.finetuning import run as finetuning
from tests.finetuning.test_embedding import data, make_config, make_pairs, write  # noqa: F401
from tests.finetuning.test_run import folder  # noqa: F401


def findings(config, workdir):
    """Returns the findings of the checks of embedders on a finished run, by name."""
    finetuning.finetune(config, workdir)
    run = reading.read(str(workdir))
    return {finding.name: finding for finding in filter(None, (check(run) for check in embedders.CHECKS))}


def test_one_of_a_group_and_a_high_temperature(data, tmp_path):  # noqa: F811
    """Half of all records share a group, so that a quarter of the negatives are known positives."""
    records = [record | {"id": 0 if i % 2 else i} for i, record in enumerate(make_pairs(200))]
    path = write(tmp_path / "grouped.jsonl", records)
    changes = {"task.train": path, "task.relevance_id": "id", "loss.temperature": 0.9, "train.num_steps": 8}
    found = findings(make_config(data, **changes), tmp_path / "run")
    assert {"many_masked", "odd_temperature"} <= found.keys()
    assert 0.2 < found["many_masked"].figures["share"] < 0.3
    assert any("relevance_id" in cause for cause in found["many_masked"].causes)


@pytest.mark.full
def test_pairs_that_do_not_belong_together(data, tmp_path):  # noqa: F811
    records = make_pairs(400)
    for record, other in zip(records, make_pairs(400, seed=9), strict=True):
        record["positive"] = other["positive"]
    path = write(tmp_path / "shuffled.jsonl", records)
    changes = {"task.train": path, "train.num_epochs": 1.0, "optimizer.learning_rate": 1e-3, "data.batch_size": 40}
    found = findings(make_config(data, **changes), tmp_path / "run")
    assert {"at_chance", "collapsed"} & found.keys()  # or both: vectors that nothing tells apart drift together


@pytest.mark.full
def test_vectors_that_are_alike(data, tmp_path):  # noqa: F811
    """A regression whose pairs are all alike takes every vector to one place; InfoNCE's log then says so."""
    path = write(tmp_path / "same.jsonl", [record | {"score": 1.0} for record in make_pairs(200)])
    workdir = tmp_path / "run"
    changes = {"task.train": path, "task.held_out": path, "loss.name": "cosine", "train.num_epochs": 8.0}
    finetuning.finetune(make_config(data, **changes), workdir)
    again = {"init_from": str(workdir), "optimizer.learning_rate": 1e-6, "train.num_steps": 8}
    found = findings(make_config(data, **again), tmp_path / "again")
    assert found["collapsed"].severity == "error" and "at_chance" not in found


def test_a_healthy_run_has_no_finding(data, tmp_path):  # noqa: F811
    assert findings(make_config(data), tmp_path / "run") == {}
