"""Rows of any lengths through one compiled function: sorted by length, padded to few shapes, kept in flight."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data import rows as rows_lib
from bert_jax.interop.pretrained import Pretrained

LENGTHS = (*rows_lib.BUCKETS, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
# Tokens of a batch, padding included, and positions whose logits over the vocabulary are held at once. A CPU's caches
# hold no more: 2,048 tokens took 1.2 times the processor time of 1,024, and 4,096 1.8 times, for 6 layers of 384.
_TOKENS = {"cpu": 1024}
_SLOTS = {"cpu": 256}
_TOKENS_OF_ACCELERATORS, _SLOTS_OF_ACCELERATORS = 32768, 4096
_IN_FLIGHT = 2  # batches that the device works on while the host makes the next
_GROWTH = 4  # the last batch holds 1, 4, 16, ... rows, so that few shapes are compiled for it


@dataclasses.dataclass(frozen=True)
class Row:
    """A model input.

    Attributes:
      ids: with special tokens.
      types: segment of each token.
      positions: tokens that count, where only some do.
    """

    ids: Sequence[int]
    types: Sequence[int]
    positions: Sequence[int] = ()


class Program:
    """A function of parameters and a batch, run on rows.

    Args:
      model: whose parameters and vocabulary are used.
      function: (model, params, batch, static) to a tree of arrays [batch, ...], compiled once for each shape of
        batch and value of static.
      dtype: of the computation, "float32" or "bfloat16"; None: as the model says.
      positions: how a batch holds the rows' positions: not at all (""), in few slots ("masked_positions" [batch,
        slots]), or as ones among zeros ("first_subwords" [batch, sequence]).
    """

    def __init__(self, model: Pretrained, function: Callable[..., Any], dtype: str | None = None, positions: str = ""):
        network = model.model
        if dtype:
            network = model_lib.Model(dataclasses.replace(network.spec, dtype=dtype))
        self._tokenizer = model.tokenizer
        self._longest = network.spec.max_positions
        self._run = jax.jit(functools.partial(function, network), static_argnums=2)
        self._params = jax.device_put(model.params)
        self._positions = positions
        self._tokens = _TOKENS.get(jax.default_backend(), _TOKENS_OF_ACCELERATORS)
        self._slots = _SLOTS.get(jax.default_backend(), _SLOTS_OF_ACCELERATORS)

    def __call__(
        self, rows: Sequence[Row], static: Hashable = None, done: Callable[[int], None] = lambda rows: None
    ) -> list[Any]:
        """The function's outputs for each row, in order: trees of numpy arrays without the batch axis.

        Token-level outputs are as long as the batch that the row was in: the caller knows the row's own length.

        Args:
          rows: none longer than the model's max_positions.
          static: the function's last argument.
          done: called with the number of rows whenever some are finished.
        """
        outputs: list[Any] = [None] * len(rows)
        flight = collections.deque()
        slots = [_power(len(row.positions)) if self._positions == "masked_positions" else 0 for row in rows]
        lengths = [len(row.ids) for row in rows]
        for some, length, size in plan(lengths, slots, self._longest, self._tokens, self._slots):
            batch = rows_lib.pad(self._tokenizer, [(rows[i].ids, rows[i].types) for i in some], length, size)
            positions = [rows[i].positions for i in some]
            if self._positions == "masked_positions":
                batch[self._positions] = _in_slots(positions, (size, slots[some[0]]))
            elif self._positions:
                batch[self._positions] = _as_ones(positions, (size, length))
            flight.append((some, self._run(self._params, batch, static)))
            if len(flight) > _IN_FLIGHT:
                self._land(flight.popleft(), outputs, done)
        while flight:
            self._land(flight.popleft(), outputs, done)
        return outputs

    def _land(self, batch, outputs, done):
        some, found = batch
        found = jax.device_get(found)
        for place, i in enumerate(some):
            outputs[i] = jax.tree.map(lambda array, place=place: array[place], found)
        done(len(some))


def plan(
    lengths: Sequence[int], slots: Sequence[int], longest: int, tokens: int, most_slots: int
) -> Iterator[tuple[list[int], int, int]]:
    """Batches that hold every row once, longest first.

    Args:
      lengths: tokens of each row.
      slots: of each row; those of a batch have as many.
      longest: the model's max_positions.
      tokens: of a batch, padding included.
      most_slots: of a batch.

    Yields:
      (rows of a batch, the length they are padded to, the number of rows it is filled up to)
    """
    order = sorted(range(len(lengths)), key=lambda i: (slots[i], lengths[i]), reverse=True)
    begin = 0
    while begin < len(order):
        first = order[begin]
        length = rows_lib.bucket(lengths[first], longest, LENGTHS)
        full = max(1, min(tokens // length, most_slots // max(1, slots[first])))
        some = [i for i in order[begin : begin + full] if slots[i] == slots[first]]
        yield some, length, min(full, _power(len(some)))
        begin += len(some)


def _power(number):
    """0, 1, 4, 16, ...: the smallest that is not below `number`."""
    power = min(number, 1)
    while power < number:
        power *= _GROWTH
    return power


def _in_slots(positions, shape):
    padded = np.zeros(shape, np.int32)
    for i, places in enumerate(positions):
        padded[i, : len(places)] = places
    return padded


def _as_ones(positions, shape):
    ones = np.zeros(shape, np.int32)
    for i, places in enumerate(positions):
        ones[i, list(places)] = 1
    return ones
