"""Counter-based random numbers are uniform and independent, and permutations are bijections."""

import numpy as np
import pytest

from bert_jax.data import hashing


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000, 65_537])
def test_permute_is_a_bijection_and_depends_on_the_key(size):
    index = np.arange(size)
    once = hashing.permute(index, size, hashing.fold("a"))
    assert sorted(once) == list(range(size))
    np.testing.assert_array_equal(once[::-1], hashing.permute(index[::-1], size, hashing.fold("a")))
    if size > 100:
        other = hashing.permute(index, size, hashing.fold("b"))
        assert (once != index).mean() > 0.9 and (once != other).mean() > 0.9
        # Neighbours land far apart: the mean distance of two random places is a third of the size.
        assert abs(np.abs(np.diff(once)).mean() / size - 1 / 3) < 0.05


def test_permute_of_sizes_larger_than_memory():
    size = 31_000_000_000
    index = np.arange(1000) * 1_000_003
    sent = hashing.permute(index, size, hashing.fold("a"))
    assert len(set(sent.tolist())) == 1000 and sent.min() >= 0 and sent.max() < size
    assert abs(sent.mean() / size - 0.5) < 0.05


def test_draws_are_uniform_and_independent_of_their_neighbours():
    bits = hashing.draw(hashing.fold(0), np.arange(1_000_000))
    u = hashing.uniform(bits)
    counts = np.bincount((u * 100).astype(int), minlength=100)
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 160  # chi-squared, 99 degrees of freedom, p = 1e-4
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.005
    per_key = hashing.uniform(hashing.draw(hashing.draw(hashing.fold(0), np.arange(100_000)), np.uint64(3)))
    assert abs(per_key.mean() - 0.5) < 0.005


def test_below_is_uniform_and_inside():
    values = hashing.below(hashing.draw(hashing.fold(1), np.arange(300_000)), 7)
    counts = np.bincount(values, minlength=7)
    assert len(counts) == 7 and ((counts - 300_000 / 7) ** 2 / (300_000 / 7)).sum() < 28


def test_coin_flips_are_binomial():
    counts = np.repeat([0, 1, 10, 64, 200], 20_000)
    heads = hashing.coin_flips(hashing.draw(hashing.fold(2), np.arange(len(counts))), counts)
    assert (heads <= counts).all() and (heads >= 0).all()
    for count in (1, 10, 64, 200):
        mine = heads[counts == count]
        assert abs(mine.mean() - count / 2) < 4 * np.sqrt(count / 4 / len(mine))
        assert abs(mine.var() / (count / 4) - 1) < 0.05


def test_fold_distinguishes_types_and_orders():
    keys = [hashing.fold(1, 2), hashing.fold(2, 1), hashing.fold("1", 2), hashing.fold(12), hashing.fold("12")]
    assert len(set(keys)) == len(keys)
