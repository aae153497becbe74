"""Rows through few compiled shapes: every row once, in its place, untouched by what stands beside it."""

import jax
import numpy as np
import pytest

from bert_jax.inference import batching, predictor, windows
from bert_jax.inference.batching import Program, Row
from tests.inference.conftest import LONGEST, make_model


@pytest.mark.parametrize("seed", range(3))
def test_plan_holds_every_row_once_in_few_shapes(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 513, 2000).tolist()
    slots = rng.choice([0, 1, 16], 2000, p=[0.5, 0.45, 0.05]).tolist()
    batches = list(batching.plan(lengths, slots, 512, 2048, 64))
    assert sorted(i for some, _, _ in batches for i in some) == list(range(2000))
    for some, length, size in batches:
        assert len(some) <= size and size * length <= 2048
        assert max(lengths[i] for i in some) <= length
        assert len({slots[i] for i in some}) == 1 and size * slots[some[0]] <= 64
    of_a_kind = [(length, size) for some, length, size in batches if slots[some[0]] == 0]
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


def test_windows_cover_a_text_and_are_full():
    for length, room in [(1, 4), (4, 4), (5, 4), (100, 30), (31, 30), (7, 1)]:
        ids = list(range(length))
        parts = windows.overlapping_windows(ids, room)
        assert sorted(set().union(*parts)) == ids
        assert all(len(part) == min(room, length) for part in parts)
        assert all(list(part) == list(range(part[0], part[0] + len(part))) for part in parts)
        assert len(parts) <= max(1, -(-length * 4 // max(1, 3 * room)) + 1)


def test_a_prompt_begins_every_window(tokenizer):
    rows = windows.rows_of_text(tokenizer, list(range(10, 30)), 8, "windows", 2)
    assert all(list(row.ids[1:3]) == [10, 11] and len(row.ids) == 8 for row in rows)
    assert {i for row in rows for i in row.ids[3:-1]} == set(range(12, 30))


def test_an_error_in_the_thread_that_prepares_reaches_the_caller():
    def items():
        yield 1
        raise ValueError("two")

    ahead = predictor._ahead(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="two"):
        next(ahead)


def test_progress_counts_examples_where_rows_are_more():
    told = []
    report = predictor._in_examples(10, 35, told.append)
    for rows in (1, 20, 14):
        report(rows)
    assert sum(told) == 10 and min(told) >= 0
