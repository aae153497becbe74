"""Builds the batches of fine-tuning as pure functions of (config, seed, step), in few shapes.

A step trains on data.batch_size rows of the data. Without packing each is a row of the batch, padded to a bucket of
lengths. With data.packing they share rows of one length, the bucket of the longest row of the data, and the number of
rows is rounded up to one of few. Evaluation never packs: sorted by length, its rows have little padding anyway.
"""

import collections.abc
import math
from collections.abc import Sequence

import ml_collections
import numpy as np

from bert_jax.config import finetuning as finetune_config
from bert_jax.data import hashing, long_texts, packing
from bert_jax.data import rows as rows_lib
from bert_jax.data.tasks import Examples, TaskData, vector_sets
from bert_jax.data.vocabularies.tokenizer import Tokenizer

_SAMPLED_ROWS = 256  # in which the share of unknown tokens is measured
_FINEST = 8  # packed batches of up to so many units are rounded to one unit, larger ones to an eighth at most


def steps_per_epoch(config: ml_collections.ConfigDict, train: Examples) -> int:
    """Returns the number of batches that hold every row of `train` once; the last may be short."""
    return finetune_config.steps_per_epoch(config, len(train.lengths))


def batch_rows(config: ml_collections.ConfigDict, train: Examples, seed: int, step: int) -> np.ndarray:
    """Returns the rows of a step's batch, int64 [batch]; each epoch has a random order of its own.

    A short last batch of an epoch is filled with -1.

    Args:
      config: a fine-tuning config.
      train: the rows to choose from.
      seed: decides the order.
      step: counts from 0.
    """
    epoch, index = divmod(step, steps_per_epoch(config, train))
    if isinstance(train, vector_sets.Groups):
        order = train.order(config.data.batch_size, seed, epoch)
        if order is not None:
            return order[index]
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
    """Builds the batches of a step for several seeds.

    All are padded to one length, a bucket that holds the longest row of any of them.

    Args:
      config: a fine-tuning config.
      task: gives the train rows.
      seeds: each has an order of its own.
      step: counts from 0.
      host: which host's slice of every seed's batch to build.
      num_hosts: number of hosts.
      unit: the number of packed rows is a multiple of it; the rows added for it have no effect on the loss.

    Returns:
      The arrays of Examples.batch, each [seeds, batch, ...]. With data.packing, `batch` is the number of packed rows
      and the arrays are those of packing.pack: per-sequence ones are [seeds, batch, k, ...].
    """
    rows = np.stack([batch_rows(config, task.train, seed, step) for seed in seeds])
    if config.data.packing:
        parts = _packed(config, task.train, rows, host, num_hosts, math.lcm(unit, num_hosts))
    else:
        begin, end = rows_lib.host_range(rows.shape[1], host, num_hosts)
        parts = [task.train.batch(seed_rows, *_lengths(config, task.train, rows)) for seed_rows in rows[:, begin:end]]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def _lengths(config, train, rows):
    """Returns the lengths that Examples.batch pads given rows to; anchors of an embedder have a length of their own."""
    if not isinstance(train, vector_sets.Groups):
        return (padded_length(config, train, rows),)
    real = rows[rows >= 0]
    longest = (train.other_lengths[real], train.anchor_lengths[real])
    return tuple(bucket(config, int(lengths.max(initial=1))) for lengths in longest)


def _packed(config, train, rows, host, num_hosts, unit):
    """Returns a host's slice of each seed's packed batch, all of one shape; rows int64 [seeds, batch]."""
    longest = bucket(config, int(train.lengths.max()))
    limits = packing.limits(longest)
    plans = []
    for seed_rows in rows:
        examples = seed_rows[seed_rows >= 0]
        members, first = packing.fill(train.lengths[examples], np.zeros(len(examples)), limits)
        plans.append((examples[members], first))
    size = _packed_size(max(len(first) - 1 for _, first in plans), unit)
    begin, end = rows_lib.host_range(size, host, num_hosts)
    parts = []
    for members, first in plans:
        own_first = first[begin : end + 1] if begin < len(first) else first[-1:]
        batch = train.batch(members[own_first[0] : own_first[-1]], longest)
        pad_id, cls_id = train.tokenizer.pad_id, train.tokenizer.cls_id
        parts.append(packing.pack(batch, own_first - own_first[0], end - begin, limits, pad_id, cls_id))
    return parts


def _packed_size(rows, unit):
    """Rounds a number of rows up to a multiple of `unit`, one of few, so that few shapes are compiled."""
    units = -(-rows // unit)
    step = 2 ** max(0, (units - 1).bit_length() - _FINEST.bit_length() + 1)
    return unit * step * -(-units // step)


def padded_length(config: ml_collections.ConfigDict, examples: Examples, rows: np.ndarray) -> int:
    """Returns the bucket that holds the longest of the given rows, int [n]; rows of -1 have no length."""
    return bucket(config, int(examples.lengths[rows[rows >= 0]].max(initial=1)))


def unknown_share(examples: Examples, tokenizer: Tokenizer) -> float:
    """Returns the share of unknown tokens in a sample of the rows, not counting other special tokens; 0 without any."""
    if tokenizer.unk_id is None or not len(examples.lengths):
        return 0.0
    rows = np.unique(np.linspace(0, len(examples.lengths) - 1, _SAMPLED_ROWS).astype(np.int64))
    batch = examples.batch(rows, int(examples.lengths[rows].max()))
    ids = batch["input_ids"][batch["attention_mask"] > 0]
    ids = ids[~np.isin(ids, [id_ for id_ in tokenizer.special_ids if id_ != tokenizer.unk_id])]
    return float(np.mean(ids == tokenizer.unk_id)) if len(ids) else 0.0


def buckets(config: ml_collections.ConfigDict) -> tuple[int, ...]:
    """Returns the lengths to which rows are padded, ascending."""
    sizes, chunk = (
        tuple(config.data.buckets) or rows_lib.BUCKETS,
        long_texts.LongReading.from_config(config).chunk_length,
    )
    return long_texts.bucket_lengths(sizes, config.data.sequence_length, chunk)


def bucket(config: ml_collections.ConfigDict, longest: int) -> int:
    """Returns the length to which rows of at most `longest` tokens are padded."""
    return rows_lib.bucket(longest, config.data.sequence_length, buckets(config))


def eval_batches(
    config: ml_collections.ConfigDict, examples: Examples, batch_size: int
) -> Sequence[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Returns a sequence of batches with every row of a split once, sorted by length, so that few shapes occur.

    A batch is built when it is taken from the sequence. The last one is filled up with rows of -1. The rows of a batch
    say to which examples its outputs belong.

    Returns:
      (rows int64 [batch_size], batch) for each batch.
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
        examples = self._order[index * self._size : (index + 1) * self._size]
        rows[: len(examples)] = examples
        return rows, self._examples.batch(rows, padded_length(self._config, self._examples, rows))
