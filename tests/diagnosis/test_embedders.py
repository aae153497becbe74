"""Diagnoses of embedders, each on a run that was broken on purpose, or on the log that such a run leaves."""

import pathlib

import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.diagnosis import embedders, reading
from bert_jax.finetuning import run as finetuning
from tests.finetuning.test_embedding import data, make_config, make_pairs, write  # noqa: F401
from tests.finetuning.test_run import folder  # noqa: F401


def findings(config, workdir):
    """Returns the findings of the checks of embedders on a finished run, by name."""
    finetuning.finetune(config, workdir)
    run = reading.read(str(workdir))
    return {finding.name: finding for finding in filter(None, (check(run) for check in embedders.CHECKS))}


@pytest.mark.more
def test_one_of_a_group_and_a_high_temperature(data, tmp_path):  # noqa: F811
    """Half of all records share a group, so that a quarter of the negatives are known positives."""
    records = [record | {"id": 0 if i % 2 else i} for i, record in enumerate(make_pairs(200))]
    path = write(tmp_path / "grouped.jsonl", records)
    changes = {"task.train": path, "task.relevance_id": "id", "loss.temperature": 0.9, "train.num_steps": 8}
    found = findings(make_config(data, **changes), tmp_path / "run")
    assert {"many_masked", "odd_temperature"} <= found.keys()
    assert 0.2 < found["many_masked"].metrics["share"] < 0.3
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


def logged(rows, batch_size=8, examples=80, **changes):
    """Returns a run of one epoch with these rows of its log, the last at its end."""
    config = finetune_config.base()
    config.task.name, config.data.batch_size, config.train.num_epochs = "embedding", batch_size, 1.0
    config.update_from_flattened_dict(changes)
    steps = examples // batch_size
    last = steps - len(rows) + 1
    run = {
        "kind": "finetune", "problem": "info_nce", "data": {"train": [examples, ""]}, "model": {"hidden_size": 768},
    }  # fmt: skip
    return reading.Run(pathlib.Path("run"), config, run, [{"step": last + i} | row for i, row in enumerate(rows)])


@pytest.mark.parametrize(
    ("batch_size", "accuracy", "is_at_chance"),
    [
        (2, 0.70, True), (2, 0.80, False),  # among two, half are right by chance, and the limit is midway to all
        (4, 0.60, True), (4, 0.65, False),
        (32, 0.08, True), (32, 0.10, False),  # among many, three times as often as by chance
    ],
)  # fmt: skip
def test_chance_of_small_and_large_batches(batch_size, accuracy, is_at_chance):
    row = {"in_batch_accuracy": accuracy, "loss": 0.6, "positive_similarity": 0.5, "negative_similarity": 0.1}
    finding = embedders.at_chance(logged([row] * 3, batch_size, 40 * batch_size))
    assert (finding is not None) == is_at_chance
    assert finding is None or (
        finding.metrics["accuracy"] == pytest.approx(accuracy) and f"one in {batch_size}" in finding.message
    )


def test_chance_is_judged_in_the_second_half_and_apart_from_vectors_that_are_alike():
    row = {"in_batch_accuracy": 0.03, "loss": 3.4, "positive_similarity": 0.5, "negative_similarity": 0.1}
    run = logged([row], 32, 3200)
    assert embedders.at_chance(run)
    early = reading.Run(run.workdir, run.config, run.run, [row | {"step": 40}])
    assert embedders.at_chance(early) is None
    alike = row | {"positive_similarity": 0.97, "negative_similarity": 0.96}
    assert embedders.at_chance(logged([alike], 32, 3200)) is None
    assert embedders.collapsed(logged([alike], 32, 3200)).severity == "error"


@pytest.mark.parametrize(("pooling", "is_odd"), [("mean", True), ("tokens", False), ("splade", False)])
def test_a_temperature_of_1_is_for_scores_that_grow(pooling, is_odd):
    run = logged([{"loss": 1.0}], **{"task.pooling": pooling, "loss.temperature": 1.0})
    assert (embedders.odd_temperature(run) is not None) == is_odd


@pytest.mark.parametrize(
    ("accuracy", "scores", "is_train_only"),
    [
        (0.95, (0.50, 0.50, 0.49), True),
        (0.95, (0.50, 0.50, 0.51), False),
        (0.95, (0.50, 0.40), False),  # two evaluations are too few to tell
        (0.80, (0.50, 0.49, 0.48), False),
    ],
)
def test_training_accuracy_without_a_held_out_gain(accuracy, scores, is_train_only):
    rows = [{"in_batch_accuracy": accuracy, "loss": 0.1, "eval/ndcg@10": score} for score in scores]
    # Neither a loss nor the score of a single seed is the score of the run.
    rows = [{"eval/loss": 1.0 + i, "eval/ndcg@10/seed_0": 0.1 * i} | row for i, row in enumerate(rows)]
    finding = embedders.train_only(logged(rows))
    assert (finding is not None) == is_train_only
    assert finding is None or finding.message.endswith("but ndcg@10 has not risen over 0.5000, its first value.")


@pytest.mark.full
def test_a_healthy_run_has_no_finding(data, tmp_path):  # noqa: F811
    assert findings(make_config(data), tmp_path / "run") == {}
