"""Which rows make a batch of fine-tuning: pure functions of (config, seed, step), in few shapes.

A step learns from data.batch_size rows of the data. Without packing each is a row of the batch, padded to a bucket of
lengths. With data.packing they share rows of one length, the bucket of the longest row of the data, and the number of
rows is a bucket too. Evaluation never packs: sorted by length, its rows hold little padding as they are.
"""

import collections.abc
import math
from collections.abc import Sequence

import ml_collections
import numpy as np

from bert_jax.data import hashing, packing
from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import Examples, TaskData

_FINEST = 8  # sizes of packed batches that are one apart, in units; larger ones are an eighth apart at most


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
    unit: int = 1,
) -> dict[str, np.ndarray]:
    """The batches of a step for several seeds: the arrays of Examples.batch, each [seeds, batch, ...].

    All are padded to one length, a bucket that holds the longest row of any of them. With data.packing, `batch` is the
    number of packed rows and the arrays are those of packing.pack: what is of a row becomes [seeds, batch, k, ...].

    Args:
      config: a fine-tuning config.
      task: whose train rows are taken.
      seeds: each with an order of its own.
      step: from 0.
      host, num_hosts: which slice of every seed's batch to make.
      unit: what the number of packed rows is a multiple of; it adds rows that count nothing, and changes no other.
    """
    rows = np.stack([batch_rows(config, task.train, seed, step) for seed in seeds])
    if config.data.packing:
        parts = _packed(config, task.train, rows, host, num_hosts, math.lcm(unit, num_hosts))
    else:
        length = padded_length(config, task.train, rows)
        size = rows.shape[1]
        rows = rows[:, host * size // num_hosts : (host + 1) * size // num_hosts]
        parts = [task.train.batch(some, length) for some in rows]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _packed(config, train, rows, host, num_hosts, unit):
    """The host's slice of each seed's packed batch, all of one shape."""
    longest = _bucket(config, int(train.lengths.max()))
    most = packing.limits(longest)
    plans = []
    for some in rows:
        some = some[some >= 0]
        members, first = packing.fill(train.lengths[some], np.zeros(len(some)), most)
        plans.append((some[members], first))
    size = _packed_size(max(len(first) - 1 for _, first in plans), unit)
    begin, end = host * size // num_hosts, (host + 1) * size // num_hosts
    parts = []
    for members, first in plans:
        mine = first[begin : end + 1] if begin < len(first) else first[-1:]
        examples = train.batch(members[mine[0] : mine[-1]], longest)
        tokenizer = train.tokenizer
        parts.append(packing.pack(examples, mine - mine[0], end - begin, most, tokenizer.pad_id, tokenizer.cls_id))
    return parts


def _packed_size(rows, unit):
    """A number of rows, a multiple of `unit`, that holds so many; one of few."""
    units = -(-rows // unit)
    step = 2 ** max(0, (units - 1).bit_length() - _FINEST.bit_length() + 1)
    return unit * step * -(-units // step)


def padded_length(config: ml_collections.ConfigDict, examples: Examples, rows: np.ndarray) -> int:
    """The bucket that holds the longest of these rows; -1 counts as none."""
    return _bucket(config, int(examples.lengths[rows[rows >= 0]].max(initial=1)))


def buckets(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """The lengths that rows are padded to, ascending."""
    longest = config.data.sequence_length
    shorter = (size for size in tuple(config.data.buckets) or rows_lib.BUCKETS if size < longest)
    return (*sorted(shorter), longest)


def _bucket(config, longest):
    return rows_lib.bucket(longest, config.data.sequence_length, buckets(config))


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
