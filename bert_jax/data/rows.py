"""Model inputs of texts and pairs, for fine-tuning and inference: special tokens, truncation, padding, buckets."""

import array
import copy
from collections.abc import Iterable, Sequence

import numpy as np

from bert_jax.data.vocabularies.tokenizer import Tokenizer

BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512)

Ids = Sequence[int]


class Ragged:
    """Lists of integers of different lengths, kept as two flat arrays; `ragged[i]` is the i-th, int32."""

    def __init__(self, lists: Iterable[Ids]):
        values = array.array("i")
        ends = array.array("q", [0])
        for one in lists:
            values.extend(one)
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
        """int32, of each list."""
        return (self._ends - self._starts).astype(np.int32)

    def every(self, first: int, step: int) -> "Ragged":
        """The lists first, first + step, ..., sharing memory."""
        part = copy.copy(self)
        part._starts, part._ends = self._starts[first::step], self._ends[first::step]
        return part


def num_special(tokenizer: Tokenizer, pair: bool) -> int:
    """Special tokens that `join` adds."""
    frame = tokenizer.frame
    return len(frame.before) + len(frame.between + frame.after_pair if pair else frame.after)


def second_begins(tokenizer: Tokenizer, first: int) -> int:
    """Where the second text of a pair begins in its row, behind a first one of so many tokens."""
    return len(tokenizer.frame.before) + first + len(tokenizer.frame.between)


def join(tokenizer: Tokenizer, first: Ids, second: Ids | None = None) -> tuple[list[int], list[int]]:
    """(ids, segments) of a text or a pair with the special tokens of the tokenizer's frame.

    BERT: [CLS] first [SEP] second [SEP], the second in segment 1. RoBERTa puts two separators between the texts and
    knows no segments; Llama's vocabularies put a begin-of-text before each text and nothing behind.
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
    """How many tokens of each text stay when both may have `room` together: the longer one gives first.

    As the `tokenizers` package truncates pairs ("longest_first").
    """
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def bucket(length: int, longest: int, buckets: Sequence[int] = BUCKETS) -> int:
    """The padded length of rows of up to `length` tokens: one of the buckets, or `longest`, the model's own limit."""
    return min([size for size in buckets if length <= size] + [longest])


def pad(
    tokenizer: Tokenizer, rows: Sequence[tuple[Ids, Ids]], length: int, num_rows: int | None = None
) -> dict[str, np.ndarray]:
    """input_ids, attention_mask and token_type_ids int32 [rows, length] of (ids, segments).

    Args:
      tokenizer: whose padding is used.
      rows: none longer than `length`.
      length: tokens of a row.
      num_rows: with as many rows; the ones added hold [CLS] alone, so that attention has something to see.
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
