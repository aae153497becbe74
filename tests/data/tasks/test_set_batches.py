"""Batches of several sets: their shares, that nothing is lost, and that they are a function of data and seed."""

import numpy as np
import pytest

from bert_jax.data.tasks import set_batches

SIZES = (40, 200, 13)
NUMBERS = np.repeat(np.arange(3), SIZES)[np.random.default_rng(0).permutation(sum(SIZES))]
TEXTS = np.stack([np.arange(len(NUMBERS)), 1000 + np.arange(len(NUMBERS))], 1)


def make(weights=(), temperature=1.0, apart=False):
    return set_batches.make_sets(("a", "b", "c"), NUMBERS, weights, temperature, apart)


def epochs(sets, number, batch_size=8, seed=3):
    if not sets.apart:
        return [set_batches.mixed(sets, TEXTS, batch_size, seed, epoch) for epoch in range(number)]
    order = set_batches.Apart(sets, TEXTS)
    return [order.order(batch_size, seed, epoch) for epoch in range(number)]


def test_shares():
    np.testing.assert_allclose(make().shares, np.array(SIZES) / sum(SIZES))
    flat = np.array(SIZES) ** 0.5
    np.testing.assert_allclose(make(temperature=2.0).shares, flat / flat.sum())
    assert make(weights=(1, 1, 2), temperature=5.0).shares == (0.25, 0.25, 0.5)
    assert set_batches.counts(make(weights=(1, 1, 2)), 10) == [3, 2, 5]
    assert sum(set_batches.counts(make(), 101)) == 101


def test_one_pass_over_each_set_where_shares_are_the_sizes():
    (order,) = epochs(make(), 1)
    assert sorted(order[order >= 0].tolist()) == list(range(len(NUMBERS)))


@pytest.mark.parametrize("apart", [False, True])
def test_every_example_is_used_before_one_is_used_again(apart):
    sets = make(weights=(2, 1, 1), apart=apart)
    orders = epochs(sets, 6)
    assert len({order.shape for order in orders}) == 1
    for number, size in enumerate(SIZES):
        used = np.zeros(len(NUMBERS), int)
        for order in orders:
            np.add.at(used, order[order >= 0], 1)
        own = used[number == NUMBERS]
        assert own.max() - own.min() <= 1, (number, size, own)


def test_batches_of_one_set_alone():
    sets = make(apart=True)
    for order in epochs(sets, 3):
        of_batch = [set(NUMBERS[batch[batch >= 0]].tolist()) for batch in order]
        assert all(len(numbers) == 1 for numbers in of_batch)
        found = [sum(numbers == {i} for numbers in of_batch) for i in range(3)]
        assert found == set_batches.counts(sets, len(order))
        assert of_batch != sorted(of_batch, key=min)  # sets take turns


def test_a_function_of_seed_and_epoch_alone():
    for apart in (False, True):
        first, second = (epochs(make(apart=apart), 2) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert (first[0] != first[1]).any() and (epochs(make(apart=apart), 1, seed=4)[0] != first[0]).any()
        order = set_batches.Apart(make(apart=True), TEXTS)  # a later epoch alone, as after a restart
        np.testing.assert_array_equal(order.order(8, 3, 1), epochs(make(apart=True), 2)[1])


def test_no_batch_has_a_text_twice():
    texts = TEXTS.copy()
    texts[::7, 1] = 1  # in a seventh of the examples
    for order in (set_batches.mixed(make(), texts, 6, 0, 0), set_batches.Apart(make(apart=True), texts).order(6, 0, 0)):
        assert max((texts[batch[batch >= 0], 1] == 1).sum() for batch in order) == 1
