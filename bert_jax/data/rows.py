"""Builds model inputs from encoded texts and pairs: special tokens, truncation, padding. For tasks and inference."""

import array
import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bert_jax import _moved
from bert_jax.data.vocabularies.tokenizer import Tokenizer

BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512)

Ids = Sequence[int]


class Ragged:
    """Lists of integers of different lengths, stored as flat arrays; `ragged[i]` is the i-th list, int32 [length]."""

    def __init__(self, lists: Iterable[Ids]):
        values = array.array("i")
        ends = array.array("q", [0])
        for integers in lists:
            values.extend(integers)
            ends.append(len(values))
        self._values = np.array(values, np.int32)
        bounds = np.array(ends, np.int64)
        self._starts, self._ends = bounds[:-1], bounds[1:]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> np.ndarray:
        return self._values[self._starts[i] : self._ends[i]]

    @property
    def lengths(self) -> np.ndarray:
        """Returns the length of each list, int32 [lists]."""
        return (self._ends - self._starts).astype(np.int32)

    def strided(self, first: int, step: int) -> "Ragged":
        """Returns the lists first, first + step, ...; they share memory with these."""
        part = copy.copy(self)
        part._starts, part._ends = self._starts[first::step], self._ends[first::step]
        return part

    every = strided  # the method's name in earlier versions


def num_special(tokenizer: Tokenizer, pair: bool) -> int:
    """Returns how many special tokens `join` adds to a text, or to a pair."""
    frame = tokenizer.frame
    return len(frame.before) + len(frame.between + frame.after_pair if pair else frame.after)


def second_start(tokenizer: Tokenizer, first: Any) -> Any:
    """Returns the column at which the second text of a pair begins, behind a first text of `first` tokens.

    Both are an int, or an integer array of any shape.
    """
    return len(tokenizer.frame.before) + first + len(tokenizer.frame.between)


def join(tokenizer: Tokenizer, first: Ids, second: Ids | None = None) -> tuple[list[int], list[int]]:
    """Returns (ids, segments) of a text or a pair with the special tokens of the tokenizer's frame.

    BERT: [CLS] first [SEP] second [SEP], the second in segment 1. RoBERTa puts two separators between the texts and
    has no segments; Llama's vocabularies put a begin-of-text before each text and nothing behind.
    """
    frame = tokenizer.frame
    ids = [*frame.before, *first]
    types = [0] * len(ids)
    if second is None:
        return [*ids, *frame.after], [*types, *[0] * len(frame.after)]
    between, segment, after = frame.segments
    ids += [*frame.between, *second, *frame.after_pair]
    return ids, [*types, *between, *[segment] * len(second), *after]


def truncate_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Returns how many tokens of each text stay when both together may have `room`: the longer text is cut first.

    The `tokenizers` package truncates pairs in the same way ("longest_first").
    """
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def host_range(size: int, host: int, num_hosts: int) -> tuple[int, int]:
    """Returns [begin, end) of a host's rows in a batch of `size` rows; sizes differ by one at most."""
    return host * size // num_hosts, (host + 1) * size // num_hosts


def bucket(length: int, longest: int, buckets: Sequence[int] = BUCKETS) -> int:
    """Returns the padded length for rows of up to `length` tokens: a bucket, or `longest`, the model's own limit."""
    return min([size for size in buckets if length <= size] + [longest])


def pad(
    tokenizer: Tokenizer, rows: Sequence[tuple[Ids, Ids]], length: int, num_rows: int | None = None
) -> dict[str, np.ndarray]:
    """Pads rows to one length.

    Args:
      tokenizer: gives the ids of padding and [CLS].
      rows: (ids, segments) of each row, none longer than `length`.
      length: tokens of a padded row.
      num_rows: rows of the batch; those added hold [CLS] alone, so that attention is defined. None adds none.

    Returns:
      input_ids, attention_mask and token_type_ids, int32 [num_rows, length].
    """
    shape = (num_rows or len(rows), length)
    input_ids = np.full(shape, tokenizer.pad_id, np.int32)
    attention_mask = np.zeros(shape, np.int32)
    token_type_ids = np.zeros(shape, np.int32)
    input_ids[len(rows) :, 0] = tokenizer.cls_id
    attention_mask[:, 0] = 1
    for i, (ids, types) in enumerate(rows):
        input_ids[i, : len(ids)] = ids
        attention_mask[i, : len(ids)] = 1
        token_type_ids[i, : len(ids)] = types
    return {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}


def __getattr__(name):
    return _moved.find("data.rows", name)
