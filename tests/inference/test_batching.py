"""Rows run in few compiled shapes: each once, in order, and independent of the other rows of its batch."""

import jax
import numpy as np
import pytest

from bert_jax.inference import batching
from bert_jax.inference.batching import Program, Row
from tests.inference.conftest import LONGEST, make_model


@pytest.mark.parametrize("seed", range(3))
def test_plan_holds_every_row_once_in_few_shapes(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 513, 2000).tolist()
    slots = rng.choice([0, 1, 16], 2000, p=[0.5, 0.45, 0.05]).tolist()
    batches = list(batching.plan(lengths, slots, 512, 2048, 64))
    assert sorted(i for members, _, _ in batches for i in members) == list(range(2000))
    for members, length, size in batches:
        assert len(members) <= size and size * length <= 2048
        assert max(lengths[i] for i in members) <= length
        assert len({slots[i] for i in members}) == 1 and size * slots[members[0]] <= 64
    of_a_kind = [(length, size) for members, length, size in batches if slots[members[0]] == 0]
    assert len(set(of_a_kind)) <= len(set(length for length, _ in of_a_kind)) + 1


def test_plan_of_few_rows_and_of_none():
    assert list(batching.plan([], [], 512, 2048, 64)) == []
    assert list(batching.plan([3], [0], 512, 2048, 64)) == [([0], 16, 1)]
    assert list(batching.plan([3, 900], [0, 0], 900, 2048, 64)) == [([1, 0], 900, 2)]
    assert list(batching.plan([700], [0], 8192, 512, 64)) == [
        ([0], 768, 1)
    ]  # one row may be over the tokens of a batch


def test_outputs_come_back_in_order_and_padding_changes_nothing(tokenizer):
    model = make_model(tokenizer)
    compiled = []

    def mean(network, params, batch, factor):
        compiled.append(batch["input_ids"].shape)
        mask = batch["attention_mask"][:, :, None]
        hidden = network.apply(params, batch)["hidden"]
        return {"ids": batch["input_ids"].sum(1) * factor, "mean": (hidden * mask).sum(1) / mask.sum(1)}

    rng = np.random.default_rng(0)
    rows = []
    for _ in range(150):
        ids = rng.integers(8, tokenizer.vocab_size, rng.integers(1, LONGEST + 1)).tolist()
        rows.append(Row(ids, [0] * len(ids)))
    counts = []
    with jax.numpy_dtype_promotion("standard"):
        program = Program(model, mean)
        outputs = program(rows, 3, counts.append)
        for row, output in zip(rows, outputs, strict=True):
            assert output["ids"] == 3 * sum(row.ids)
        for i in (0, 50, 149):
            (alone,) = program([rows[i]], 3)
            np.testing.assert_allclose(outputs[i]["mean"], alone["mean"], rtol=1e-5, atol=1e-6)
    assert sum(counts) == 150
    assert len(compiled) <= 7  # 40, 32 and 16 long; one more for the last batch, and for single rows
