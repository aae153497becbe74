"""Batches hold every row once an epoch, in an order of its own for each seed, in few shapes."""

import types

import numpy as np
import pytest

from bert_jax.data.tasks import batches
from tests.data.tasks.conftest import config


class Lengths:
    """Rows whose batch contains their own numbers."""

    def __init__(self, lengths):
        self.lengths = np.array(lengths, np.int32)

    def batch(self, rows, length):
        return {"rows": np.repeat(rows[:, None], length, 1), "weights": (rows >= 0).astype(np.float32)}


class Task:
    def __init__(self, lengths):
        self.train = Lengths(lengths)


@pytest.mark.parametrize("size", [1, 4, 7, 30])
def test_an_epoch_has_every_row_once_in_an_order_of_its_own(size):
    settings, train = config(batch_size=4), Lengths([5] * size)
    steps = batches.steps_per_epoch(settings, train)
    assert steps == -(-size // 4)
    orders = set()
    for seed in (0, 1):
        for epoch in (0, 1):
            rows = np.concatenate([batches.batch_rows(settings, train, seed, epoch * steps + i) for i in range(steps)])
            assert sorted(rows[:size].tolist()) == list(range(size)) and (rows[size:] == -1).all()
            orders.add(tuple(rows))
    assert len(orders) == (4 if size > 4 else len(orders))


def test_places_are_uniform():
    settings, train = config(batch_size=5), Lengths([5] * 5)
    counts = np.zeros((5, 5))
    for seed in range(2000):
        counts[np.arange(5), batches.batch_rows(settings, train, seed, 0)] += 1
    chi = ((counts - 400) ** 2 / 400).sum()
    assert chi < 45  # 16 degrees of freedom: exceeded once in 10,000 times


def test_a_batch_of_several_seeds_is_theirs_alone():
    lengths = list(range(3, 33))
    settings, task = config(batch_size=4), Task(lengths)
    together = batches.train_batch(settings, task, [3, 5], 7)
    assert together["rows"].shape == (2, 4, 32) and together["weights"].dtype == np.float32
    for i, seed in enumerate((3, 5)):
        alone = batches.train_batch(settings, task, [seed], 7)
        assert (alone["rows"][0, :, 0] == together["rows"][i, :, 0]).all()
        assert alone["rows"].shape[2] in (16, 32)
    halves = [batches.train_batch(settings, task, [3, 5], 7, host, 2)["rows"] for host in (0, 1)]
    assert (np.concatenate(halves, axis=1) == together["rows"]).all()
    assert batches.train_batch(settings, task, [3], 7)["weights"].tolist() == [[1, 1, 0, 0]]  # 30 rows: the last are 2


def test_evaluation_sees_each_row_once_in_few_shapes():
    rng = np.random.default_rng(0)
    examples = Lengths(rng.integers(3, 129, 203))
    settings = config(length=128)
    made = batches.eval_batches(settings, examples, 8)
    assert len(made) == 26
    for _ in range(2):  # it can be gone through again
        rows = np.concatenate([rows for rows, _ in made])
        assert sorted(rows[rows >= 0].tolist()) == list(range(203)) and len(rows) == 208
    assert {batch["rows"].shape for _, batch in made} <= {(8, size) for size in (16, 32, 64, 96, 128)}
    for rows, batch in made:
        assert examples.lengths[rows[rows >= 0]].max() <= batch["rows"].shape[1]
    settings.data.buckets = (50,)
    assert {batch["rows"].shape[1] for _, batch in batches.eval_batches(settings, examples, 8)} == {50, 128}
    assert len(batches.eval_batches(settings, Lengths([]), 8)) == 0


def test_the_share_of_unknown_tokens_counts_no_other_special_ones():
    class Examples:
        lengths = np.full(1000, 6, np.int32)

        def batch(self, rows, length):
            ids = np.tile([2, 1, 7, 1, 3, 0], (len(rows), 1))  # [CLS] [UNK] word [UNK] [SEP] [PAD]
            return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int32)}

    tokenizer = types.SimpleNamespace(unk_id=1, special_ids=(0, 1, 2, 3, 4))
    assert batches.unknown_share(Examples(), tokenizer) == 2 / 3
    assert batches.unknown_share(Examples(), types.SimpleNamespace(unk_id=None)) == 0.0
