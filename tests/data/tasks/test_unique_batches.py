"""Batches without the same text twice: every row once, nothing twice, and a function of data and seed alone."""

import numpy as np
import pytest

from bert_jax.data.tasks import unique_batches


def texts_of(number, different, columns=2, seed=0):
    return np.random.default_rng(seed).integers(0, different, (number, columns))


def assert_batches(texts, table, left_out=0):
    rows = table[table >= 0]
    assert len(set(rows.tolist())) == len(rows) == len(texts) - left_out
    for batch in table:
        members = batch[batch >= 0]
        own = [text for row in texts[members].tolist() for text in {text for text in row if text >= 0}]
        assert len(own) == len(set(own))


@pytest.mark.parametrize(("number", "different", "size"), [(1000, 3000, 32), (1000, 400, 16), (999, 2000, 50)])
def test_no_text_twice(number, different, size):
    texts = texts_of(number, different)
    table = unique_batches.order(texts, size, seed=1, epoch=0)
    assert table.shape == (-(-number // size), size)
    assert_batches(texts, table, number - (table >= 0).sum())
    assert (table >= 0).sum() >= 0.99 * number


def test_without_conflicts_the_order_is_a_permutation():
    texts = np.arange(60).reshape(30, 2)
    table = unique_batches.order(texts, 8, seed=0, epoch=0)
    assert sorted(table[table >= 0].tolist()) == list(range(30)) and (table[-1] >= 0).sum() == 6


def test_seed_and_epoch_decide():
    texts = texts_of(200, 300)
    first = unique_batches.order(texts, 16, seed=0, epoch=0)
    np.testing.assert_array_equal(first, unique_batches.order(texts, 16, seed=0, epoch=0))
    for seed, epoch in ((1, 0), (0, 1)):
        assert (unique_batches.order(texts, 16, seed=seed, epoch=epoch) != first).any()


def test_a_text_in_as_many_rows_as_batches():
    texts = np.array([[0, 1 + i] for i in range(10)] + [[100 + 2 * i, 101 + 2 * i] for i in range(30)])
    table = unique_batches.order(texts, 4, seed=3, epoch=0)
    assert_batches(texts, table)  # ten batches of four: one of the common text's rows in each
    assert unique_batches.commonest(texts) == (0, 10)


def test_a_text_twice_in_a_row_and_absent_texts():
    texts = np.array([[5, 5, -1], [5, 6, -1], [7, 8, -1], [9, 9, 10]])
    assert unique_batches.commonest(texts) == (5, 2)
    assert_batches(texts, unique_batches.order(texts, 2, seed=0, epoch=0))
