"""Which rows make a batch of fine-tuning: pure functions of (config, seed, step), padded to few lengths."""

import collections.abc
from collections.abc import Sequence

import ml_collections
import numpy as np

from bert_jax.data import hashing
from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import Examples, TaskData


def steps_per_epoch(config: ml_collections.ConfigDict, train: Examples) -> int:
    """Batches that hold every row once; the last may be short."""
    return -(-len(train.lengths) // config.data.batch_size)


def batch_rows(config: ml_collections.ConfigDict, train: Examples, seed: int, step: int) -> np.ndarray:
    """The rows of a step's batch, int64 [batch], in a uniformly random order of its own for each epoch.

    A short last batch of an epoch is filled with -1.
    """
    epoch, index = divmod(step, steps_per_epoch(config, train))
    size = len(train.lengths)
    place = index * config.data.batch_size + np.arange(config.data.batch_size)
    rows = np.full(len(place), -1)
    inside = place < size
    rows[inside] = hashing.permute(place[inside], size, hashing.fold("fine-tuning order", seed, epoch))
    return rows


def train_batch(
    config: ml_collections.ConfigDict,
    task: TaskData,
    seeds: Sequence[int],
    step: int,
    host: int = 0,
    num_hosts: int = 1,
) -> dict[str, np.ndarray]:
    """The batches of a step for several seeds: the arrays of Examples.batch, each [seeds, batch, ...].

    All are padded to one length, a bucket that holds the longest row of any of them.

    Args:
      config: a fine-tuning config.
      task: whose train rows are taken.
      seeds: each with an order of its own.
      step: from 0.
      host, num_hosts: which slice of every seed's batch to make.
    """
    rows = np.stack([batch_rows(config, task.train, seed, step) for seed in seeds])
    length = padded_length(config, task.train, rows)
    size = rows.shape[1]
    rows = rows[:, host * size // num_hosts : (host + 1) * size // num_hosts]
    parts = [task.train.batch(some, length) for some in rows]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def padded_length(config: ml_collections.ConfigDict, examples: Examples, rows: np.ndarray) -> int:
    """The bucket that holds the longest of these rows; -1 counts as none."""
    longest = int(examples.lengths[rows[rows >= 0]].max(initial=1))
    return rows_lib.bucket(longest, config.data.sequence_length, tuple(config.data.buckets) or rows_lib.BUCKETS)


def eval_batches(
    config: ml_collections.ConfigDict, examples: Examples, batch_size: int
) -> Sequence[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """(rows int64 [batch_size], their batch) for every row of a split once, sorted by length so that few shapes come.

    A batch is made when it is taken from the sequence. The last one is filled up with rows of -1. What is computed
    for a batch goes back in the order of the data by its rows.
    """
    return _EvalBatches(config, examples, batch_size)


class _EvalBatches(collections.abc.Sequence):
    def __init__(self, config, examples, batch_size):
        self._config, self._examples, self._size = config, examples, batch_size
        self._order = np.argsort(-examples.lengths, kind="stable")

    def __len__(self):
        return -(-len(self._order) // self._size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = np.full(self._size, -1)
        some = self._order[index * self._size : (index + 1) * self._size]
        rows[: len(some)] = some
        return rows, self._examples.batch(rows, padded_length(self._config, self._examples, rows))
