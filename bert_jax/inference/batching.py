"""Rows of any lengths through one compiled function, in few shapes, kept in flight.

Either sorted by length, those of a batch padded to one of few lengths; or packed, several in a row of one length.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax import model as model_lib
from bert_jax.data import packing as packing_lib
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
_PACKED = 512  # tokens of the longest packed row; longer rows stand alone, as attention costs their square
# packing="auto" packs where it leaves at most this share of the tokens; never on GPUs, whose fused attention reads
# a mask of [sequence, sequence] for packed rows and nothing for others.
_WORTH = {"gpu": 0.0}
_WORTH_ELSEWHERE = 0.9


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


@dataclasses.dataclass
class _Batch:
    """A batch on its way.

    Attributes:
      arrays: the model's input.
      some: which rows it holds.
      where: of each of them, the index of its part of an output.
    """

    arrays: dict[str, np.ndarray]
    some: Sequence[int]
    where: Sequence[Any]


class Program:
    """A function of parameters and a batch, run on rows.

    Args:
      model: whose parameters and vocabulary are used.
      function: (model, params, batch, static) to a tree of arrays, compiled once for each shape of batch and value of
        static.
      dtype: of the computation, "float32" or "bfloat16"; None: as the model says.
      positions: how a batch holds the rows' positions: not at all (""), in few slots ("masked_positions" [batch,
        slots]), or as ones among zeros ("first_subwords" [batch, sequence]).
      outputs: what the function's arrays are of: "text" [batch, ...] (of packed rows [batch, k, ...]), "token" [batch,
        sequence, ...], or "slot" [batch, slots, ...].
      packing: whether several rows may become one: True, False, or "auto": where it saves at least a tenth of the
        tokens, but on no GPU. The function is then given packed batches.
    """

    def __init__(
        self,
        model: Pretrained,
        function: Callable[..., Any],
        dtype: str | None = None,
        positions: str = "",
        outputs: str = "text",
        packing: str | bool = False,
    ):
        network = model.model
        if dtype:
            network = model_lib.Model(dataclasses.replace(network.spec, dtype=dtype))
        self._tokenizer = model.tokenizer
        self._longest = network.spec.max_positions
        self._run = jax.jit(functools.partial(function, network), static_argnums=2)
        self._params = jax.device_put(model.params)
        self._positions, self._outputs, self._packing = positions, outputs, packing
        self._tokens = _TOKENS.get(jax.default_backend(), _TOKENS_OF_ACCELERATORS)
        self._worth = _WORTH.get(jax.default_backend(), _WORTH_ELSEWHERE)
        self._slots = _SLOTS.get(jax.default_backend(), _SLOTS_OF_ACCELERATORS)

    def __call__(
        self, rows: Sequence[Row], static: Hashable = None, done: Callable[[int], None] = lambda rows: None
    ) -> list[Any]:
        """The function's outputs for each row, in order: trees of numpy arrays without the batch axis.

        Token-level outputs are at least as long as the row, slots at least as many as its positions: the caller knows
        the row's own.

        Args:
          rows: none longer than the model's max_positions.
          static: the function's last argument.
          done: called with the number of rows whenever some are finished.
        """
        outputs: list[Any] = [None] * len(rows)
        flight = collections.deque()
        for batch in self._batches(rows):
            flight.append((batch, self._run(self._params, batch.arrays, static)))
            if len(flight) > _IN_FLIGHT:
                _land(*flight.popleft(), outputs, done)
        while flight:
            _land(*flight.popleft(), outputs, done)
        return outputs

    def _batches(self, rows):
        lengths = [len(row.ids) for row in rows]
        counts = [len(row.positions) if self._positions == "masked_positions" else 0 for row in rows]
        slots = [_power(count) for count in counts]
        limits = self._longest, self._tokens, self._slots
        alone = list(plan(lengths, slots, *limits))
        if not self._packing:
            return (self._padded(rows, slots, *planned) for planned in alone)
        packed, rest = plan_packed(lengths, counts, *limits)
        rest = [([rest[i] for i in some], length, size) for some, length, size in plan(
            [lengths[i] for i in rest], [slots[i] for i in rest], *limits
        )]  # fmt: skip
        needed = sum(one.size * one.most.tokens for one in packed) + sum(length * size for _, length, size in rest)
        if self._packing == "auto" and needed > self._worth * sum(length * size for _, length, size in alone):
            return (self._padded(rows, slots, *planned) for planned in alone)
        padded = (self._padded(rows, slots, *planned) for planned in rest)
        return itertools.chain(padded, (self._packed(rows, one) for one in packed))

    def _padded(self, rows, slots, some, length, size):
        batch = rows_lib.pad(self._tokenizer, [(rows[i].ids, rows[i].types) for i in some], length, size)
        positions = [rows[i].positions for i in some]
        if self._positions == "masked_positions":
            batch[self._positions] = _in_slots(positions, (size, slots[some[0]]))
        elif self._positions:
            batch[self._positions] = _as_ones(positions, (size, length))
        return _Batch(batch, some, range(len(some)))

    def _packed(self, rows, planned):
        some, most, tokenizer = planned.some, planned.most, self._tokenizer
        joined = [(rows[i].ids, rows[i].types) for i in some]
        batch = rows_lib.pad(tokenizer, joined, max(len(ids) for ids, _ in joined))
        batch = packing_lib.pack(batch, planned.first, planned.size, most, tokenizer.pad_id, tokenizer.cls_id)
        lengths = [len(ids) for ids, _ in joined]
        places = packing_lib.Places.of(lengths, planned.first)
        owners, begins = places.row.tolist(), places.begin.tolist()
        spans = [slice(begin, begin + length) for begin, length in zip(begins, lengths, strict=True)]
        positions = [[] for _ in range(planned.size)]
        slots = []
        for i, owner, begin in zip(some, owners, begins, strict=True):
            slots.append(slice(len(positions[owner]), len(positions[owner]) + len(rows[i].positions)))
            positions[owner] += [begin + place for place in rows[i].positions]
        if self._positions == "masked_positions":
            batch[self._positions] = _in_slots(positions, (planned.size, most.masks))
        elif self._positions:
            batch[self._positions] = _as_ones(positions, batch["input_ids"].shape)
        parts = {"text": places.number.tolist(), "token": spans, "slot": slots}[self._outputs]
        return _Batch(batch, some, list(zip(owners, parts, strict=True)))


def _land(batch, made, outputs, done):
    found = jax.device_get(made)
    for where, i in zip(batch.where, batch.some, strict=True):
        outputs[i] = jax.tree.map(lambda array, where=where: array[where], found)
    done(len(batch.some))


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


@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Which rows are packed in a batch.

    Attributes:
      some: rows, one packed row after the other.
      first: int64, where each packed row begins among them; see packing.fill.
      most: what a packed row holds.
      size: packed rows that the batch is filled up to.
    """

    some: list[int]
    first: np.ndarray
    most: packing_lib.Limits
    size: int


def plan_packed(
    lengths: Sequence[int], counts: Sequence[int], longest: int, tokens: int, most_slots: int
) -> tuple[list[PackedBatch], list[int]]:
    """Batches of packed rows, all of one length, and the rows that are too long to share one.

    Args:
      lengths: tokens of each row.
      counts: positions of each row that take a slot.
      longest, tokens, most_slots: as those of `plan`.
    """
    lengths, counts = np.array(lengths, np.int64), np.array(counts, np.int64)
    some = np.flatnonzero(lengths <= _PACKED)
    rest = np.flatnonzero(lengths > _PACKED).tolist()
    if not len(some):
        return [], rest
    length = rows_lib.bucket(int(lengths[some].max()), longest, LENGTHS)
    # Slots for half as much again as a row of the usual text has, or for the text that has the most; a power of two.
    usual = int(1.5 * counts[some].sum() * length / lengths[some].sum())
    slots = max(usual, int(counts[some].max()))
    most = dataclasses.replace(packing_lib.limits(length), masks=1 << (slots - 1).bit_length() if slots else 0)
    members, first = packing_lib.fill(lengths[some], counts[some], most)
    full = max(1, min(tokens // length, most_slots // max(1, most.masks)))
    batches = []
    for begin in range(0, len(first) - 1, full):
        bounds = first[begin : begin + full + 1]
        rows = some[members[bounds[0] : bounds[-1]]].tolist()
        batches.append(PackedBatch(rows, bounds - bounds[0], most, min(full, _power(len(bounds) - 1))))
    return batches, rest


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
