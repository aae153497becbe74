"""Divides an epoch over several sets of examples into batches: mixed ones, or each of one set alone.

Every set has a share of the examples. A set that is used up before the others begins again in another order.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from bert_jax.data import hashing
from bert_jax.data.tasks import unique_batches

_ORDERS_KEPT = 64  # passes over a set whose order is held


@dataclasses.dataclass(frozen=True, eq=False)
class Sets:
    """Holds sets of examples, and what each has of the batches.

    Attributes:
      names: names of the sets.
      members: numbers of each set's examples.
      shares: share of the batches' examples that each set has; together 1.
      apart: whether each batch holds examples of one set alone.
    """

    names: tuple[str, ...]
    members: tuple[np.ndarray, ...]
    shares: tuple[float, ...]
    apart: bool


def make_sets(
    names: Sequence[str], numbers: np.ndarray, weights: Sequence[float], temperature: float, apart: bool
) -> Sets:
    """Returns sets of examples with their shares.

    Args:
      names: names of the sets.
      numbers: the set of each example, int [examples].
      weights: weights of the sets; () for their sizes ** (1 / temperature).
      temperature: 1 gives each set the share of its size, a larger one more equal shares.
      apart: see `Sets`.
    """
    members = tuple(np.flatnonzero(numbers == i) for i in range(len(names)))
    sizes = np.array(weights or [len(rows) ** (1 / temperature) for rows in members], np.float64)
    return Sets(tuple(names), members, tuple((sizes / sizes.sum()).tolist()), apart)


def counts(sets: Sets, total: int) -> list[int]:
    """Returns how many of `total` examples or batches of an epoch each set has: the nearest whole numbers to its share.

    They add up to `total`; what is left goes to the largest remainders.
    """
    exact = np.array(sets.shares) * total
    numbers = np.floor(exact).astype(int)
    for place in np.argsort(numbers - exact, kind="stable")[: total - numbers.sum()]:
        numbers[place] += 1
    return numbers.tolist()


def examples_of(sets: Sets, total: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the examples of an epoch of mixed batches, int64 [total], by set; an example may occur repeatedly.

    Args:
      sets: the sets.
      total: examples of an epoch.
      seed: decides the order in which a set is used.
      epoch: counts from 0.
    """
    parts = []
    for number, (members, count) in enumerate(zip(sets.members, counts(sets, total), strict=True)):
        place = epoch * count + np.arange(count)  # among the set's examples since the first epoch
        passes, index = np.divmod(place, len(members))
        rows = np.empty(count, np.int64)
        for nth in np.unique(passes):
            key = hashing.fold("set of examples", seed, number, int(nth))
            rows[passes == nth] = hashing.permute(index[passes == nth], len(members), key)
        parts.append(members[rows])
    return np.concatenate(parts)


def mixed(sets: Sets, texts: np.ndarray, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the examples of each batch of an epoch, int64 [batches, batch_size]; -1 where a batch has fewer.

    Args:
      sets: the sets.
      texts: numbers of the texts of each example, int [examples, columns]; -1 is no text. No batch has one twice.
      batch_size: examples of a batch.
      seed: decides the order.
      epoch: counts from 0.
    """
    rows = examples_of(sets, len(texts), seed, epoch)
    order = unique_batches.order(texts[rows], batch_size, seed, epoch)
    return np.where(order < 0, -1, rows[order])


class Apart:
    """Gives the batches of epochs in which each batch holds examples of one set alone.

    Args:
      sets: the sets.
      texts: see `mixed`.
    """

    def __init__(self, sets: Sets, texts: np.ndarray):
        self._sets, self._texts = sets, texts
        self._pass = functools.lru_cache(maxsize=_ORDERS_KEPT)(self._make_pass)

    def order(self, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        """Returns the examples of each batch of an epoch, int64 [batches, batch_size], as `mixed` does."""
        total = -(-len(self._texts) // batch_size)
        turns = np.repeat(np.arange(len(self._sets.names)), counts(self._sets, total))
        turns = turns[hashing.permute(np.arange(total), total, hashing.fold("turns of sets", seed, epoch))]
        table = np.empty((total, batch_size), np.int64)
        for number, count in enumerate(counts(self._sets, total)):
            place = epoch * count + np.arange(count)  # among the set's batches since the first epoch
            passes, index = np.divmod(place, -(-len(self._sets.members[number]) // batch_size))
            batches = [self._pass(number, batch_size, seed, int(nth))[i] for nth, i in zip(passes, index, strict=True)]
            table[turns == number] = np.reshape(batches, (count, batch_size))
        return table

    def _make_pass(self, number, batch_size, seed, nth):
        """Returns the batches of one pass over a set."""
        members = self._sets.members[number]
        own = int(hashing.fold("batches of a set", seed, number) % np.uint64(1 << 31))
        order = unique_batches.order(self._texts[members], batch_size, own, nth)
        return np.where(order < 0, -1, members[order])
