"""Runs rows of any length through one compiled function in few shapes, several batches in flight.

Rows are either sorted by length and padded to one of few lengths, or packed, several in one row of fixed length.
"""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from bert_jax import _moved
from bert_jax import model as model_lib
from bert_jax.data import long_texts
from bert_jax.data import packing as packing_lib
from bert_jax.data import rows as rows_lib
from bert_jax.interop.pretrained import Pretrained

LENGTHS = (*rows_lib.BUCKETS, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
# The most tokens of a batch, padding included, and the most positions with logits over the vocabulary. More overflow
# a CPU's caches: 2,048 tokens took 1.2 times the processor time of 1,024, and 4,096 1.8 times, for 6 layers of 384.
_TOKENS = {"cpu": 1024}
_SLOTS = {"cpu": 256}
_TOKENS_ELSEWHERE, _SLOTS_ELSEWHERE = 32768, 4096
_IN_FLIGHT = 2  # batches queued on the device while the host makes the next one
_GROWTH = 4  # the last batch is filled up to 1, 4, 16, ... rows, so that few shapes are compiled for it
_PACKED = 512  # tokens of the longest packed row; longer rows are not packed, as attention costs their square
# packing="auto" packs if at most this share of the tokens remains; never on GPUs, whose fused attention needs a
# [sequence, sequence] mask for packed rows and none for others.
_PACKED_SHARE = {"gpu": 0.0}
_PACKED_SHARE_ELSEWHERE = 0.9


@dataclasses.dataclass(frozen=True)
class Row:
    """Holds one input of the model.

    Attributes:
      ids: token ids, special tokens included.
      types: segment of each token (token_type_ids).
      positions: the tokens whose outputs are read, such as masks; () if all are, or the text as a whole.
    """

    ids: Sequence[int]
    types: Sequence[int]
    positions: Sequence[int] = ()


@dataclasses.dataclass
class _Batch:
    """Holds a batch in flight.

    Attributes:
      arrays: the model's input.
      rows: indices of the rows that it holds.
      slices: for each of these rows, the index of its part of an output.
    """

    arrays: dict[str, np.ndarray]
    rows: Sequence[int]
    slices: Sequence[Any]


class Program:
    """Runs a function of parameters and a batch on any number of rows.

    Args:
      model: an opened model: its parameters and tokenizer are used.
      function: takes (model, params, batch, static) and returns a tree of arrays; compiled once for each shape of the
        batch and each value of `static`.
      dtype: dtype of the computation, "float32" or "bfloat16"; None: as the model's config says.
      positions: how a batch holds the positions of its rows: "" (not at all), "masked_positions" (int32 [batch,
        slots]), "global_positions" (int32 [batch, k], -1 where there are fewer; not at all for a model without global
        tokens) or another name, such as "first_subwords" (int32 [batch, sequence], ones at the positions).
      outputs: the axes of the function's arrays: "text" [batch, ...] (with packing [batch, k, ...]), "token" [batch,
        sequence, ...] or "slot" [batch, slots, ...].
      packing: whether several rows may share one: True, False, or "auto": if it saves at least a tenth of the tokens,
        and never on GPUs. The function then gets packed batches.
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
        self._max_length, self._chunk_length = row_limits(network.spec)
        self._run = jax.jit(functools.partial(function, network), static_argnums=2)
        self._params = jax.device_put(model.params)
        self._positions, self._outputs = positions, outputs
        # Dynamic scaling turns positions by the length of the row: a text would change with its neighbours.
        self._packing = False if network.spec.rotary_scaling == "dynamic" else packing
        if positions == "global_positions" and network.spec.global_tokens == "none":
            self._positions = ""
        self._max_tokens = _TOKENS.get(jax.default_backend(), _TOKENS_ELSEWHERE)
        self._packed_share = _PACKED_SHARE.get(jax.default_backend(), _PACKED_SHARE_ELSEWHERE)
        self._max_slots = _SLOTS.get(jax.default_backend(), _SLOTS_ELSEWHERE)

    def __call__(
        self, rows: Sequence[Row], static: Hashable = None, done: Callable[[int], None] = lambda rows: None
    ) -> list[Any]:
        """Returns the function's outputs for each row, in order: trees of numpy arrays without the batch axis.

        Token outputs are at least as long as the row, slot outputs at least as long as its positions: the caller cuts
        them.

        Args:
          rows: rows of at most as many tokens as `row_limits` says.
          static: last argument of the function.
          done: called with the number of newly finished rows.
        """
        outputs: list[Any] = [None] * len(rows)
        flight = collections.deque()
        for batch in self._batches(rows):
            flight.append((batch, self._run(self._params, batch.arrays, static)))
            if len(flight) > _IN_FLIGHT:
                _fetch(*flight.popleft(), outputs, done)
        while flight:
            _fetch(*flight.popleft(), outputs, done)
        return outputs

    def _batches(self, rows):
        lengths = [len(row.ids) for row in rows]
        counts = [len(row.positions) if self._positions == "masked_positions" else 0 for row in rows]
        slots = [_power(count) for count in counts]
        limits = self._max_length, self._max_tokens, self._max_slots
        unpacked = list(plan(lengths, slots, *limits, self._chunk_length))
        if not self._packing or self._chunk_length:
            return (self._padded(rows, slots, *planned) for planned in unpacked)
        packed, too_long = plan_packed(lengths, counts, *limits)
        rest = [([too_long[i] for i in members], length, size) for members, length, size in plan(
            [lengths[i] for i in too_long], [slots[i] for i in too_long], *limits
        )]  # fmt: skip
        needed = sum(planned.size * planned.limits.tokens for planned in packed)
        needed += sum(length * size for _, length, size in rest)
        if self._packing == "auto" and needed > self._packed_share * sum(length * size for _, length, size in unpacked):
            return (self._padded(rows, slots, *planned) for planned in unpacked)
        padded = (self._padded(rows, slots, *planned) for planned in rest)
        return itertools.chain(padded, (self._packed(rows, planned) for planned in packed))

    def _padded(self, rows, slots, members, length, size):
        batch = rows_lib.pad(self._tokenizer, [(rows[i].ids, rows[i].types) for i in members], length, size)
        positions = [rows[i].positions for i in members]
        if self._positions == "masked_positions":
            batch[self._positions] = _in_slots(positions, (size, slots[members[0]]))
        elif self._positions == "global_positions":
            batch[self._positions] = _global_positions(positions, (size, length))
        elif self._positions:
            batch[self._positions] = _as_ones(positions, (size, length))
        return _Batch(batch, members, range(len(members)))

    def _packed(self, rows, planned):
        members, limits, tokenizer = planned.rows, planned.limits, self._tokenizer
        joined = [(rows[i].ids, rows[i].types) for i in members]
        batch = rows_lib.pad(tokenizer, joined, max(len(ids) for ids, _ in joined))
        batch = packing_lib.pack(batch, planned.starts, planned.size, limits, tokenizer.pad_id, tokenizer.cls_id)
        lengths = [len(ids) for ids, _ in joined]
        places = packing_lib.Places.from_lengths(np.array(lengths), planned.starts)
        owners, begins = places.row.tolist(), places.begin.tolist()
        spans = [slice(begin, begin + length) for begin, length in zip(begins, lengths, strict=True)]
        positions = [[] for _ in range(planned.size)]
        slots = []
        for i, owner, begin in zip(members, owners, begins, strict=True):
            slots.append(slice(len(positions[owner]), len(positions[owner]) + len(rows[i].positions)))
            positions[owner] += [begin + position for position in rows[i].positions]
        if self._positions == "masked_positions":
            batch[self._positions] = _in_slots(positions, (planned.size, limits.masks))
        elif self._positions == "global_positions":
            batch[self._positions] = _global_positions(positions, batch["input_ids"].shape)
        elif self._positions:
            batch[self._positions] = _as_ones(positions, batch["input_ids"].shape)
        parts = {"text": places.number.tolist(), "token": spans, "slot": slots}[self._outputs]
        return _Batch(batch, members, list(zip(owners, parts, strict=True)))


def _fetch(batch, device_outputs, outputs, done):
    """Copies a batch's outputs to the host and puts each row's part into `outputs`."""
    host_outputs = jax.device_get(device_outputs)
    for part, i in zip(batch.slices, batch.rows, strict=True):
        outputs[i] = jax.tree.map(lambda array, part=part: array[part], host_outputs)
    done(len(batch.rows))


def row_limits(spec: model_lib.Spec) -> tuple[int, int]:
    """Returns the most tokens of a row, and the tokens of the chunks that rows of a model consist of, or 0."""
    task = spec.task
    if task and task.chunk_length:
        return task.chunk_length * task.max_chunks, task.chunk_length
    return spec.max_positions, 0


@_moved.renamed_arguments(longest="max_length", tokens="max_tokens", most_slots="max_slots")
def plan(
    lengths: Sequence[int],
    slots: Sequence[int],
    max_length: int,
    max_tokens: int,
    max_slots: int,
    chunk_length: int = 0,
) -> Iterator[tuple[list[int], int, int]]:
    """Plans padded batches that hold every row once, the longest first.

    Args:
      lengths: number of tokens of each row.
      slots: number of slots of each row; the rows of a batch have equally many.
      max_length: the most tokens of a row, see `row_limits`.
      max_tokens: the most tokens of a batch, padding included.
      max_slots: the most slots of a batch.
      chunk_length: tokens of the chunks that rows consist of; 0 for rows without.

    Yields:
      (indices of the rows of a batch, the length they are padded to, the number of rows it is filled up to).
    """
    order = sorted(range(len(lengths)), key=lambda i: (slots[i], lengths[i]), reverse=True)
    buckets = long_texts.bucket_lengths(LENGTHS, max_length, chunk_length)
    begin = 0
    while begin < len(order):
        first = order[begin]
        length = rows_lib.bucket(lengths[first], max_length, buckets)
        full = max(1, min(max_tokens // length, max_slots // max(1, slots[first])))
        members = [i for i in order[begin : begin + full] if slots[i] == slots[first]]
        yield members, length, min(full, _power(len(members)))
        begin += len(members)


@_moved.renamed_members(some="rows", first="starts", most="limits")
@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Holds the plan of a packed batch.

    Attributes:
      rows: indices of the rows that it holds, one packed row after the other.
      starts: int64 [packed rows + 1], where each packed row begins in `rows` (see packing.fill).
      limits: capacity of a packed row.
      size: number of packed rows that the batch is filled up to.
    """

    rows: list[int]
    starts: np.ndarray
    limits: packing_lib.Limits
    size: int


@_moved.renamed_arguments(longest="max_length", tokens="max_tokens", most_slots="max_slots")
def plan_packed(
    lengths: Sequence[int], counts: Sequence[int], max_length: int, max_tokens: int, max_slots: int
) -> tuple[list[PackedBatch], list[int]]:
    """Plans batches of packed rows of one length.

    Args:
      lengths: number of tokens of each row.
      counts: number of positions of each row that take a slot.
      max_length, max_tokens, max_slots: as for `plan`.

    Returns:
      (batches, indices of the rows that are too long to be packed).
    """
    tokens, predictions = np.array(lengths, np.int64), np.array(counts, np.int64)
    short = np.flatnonzero(tokens <= _PACKED)
    too_long = np.flatnonzero(tokens > _PACKED).tolist()
    if not len(short):
        return [], too_long
    length = rows_lib.bucket(int(tokens[short].max()), max_length, LENGTHS)
    # Slots for 1.5 times the mean number of positions, and at least for the row with the most; a power of two.
    mean_slots = int(1.5 * predictions[short].sum() * length / tokens[short].sum())
    slots = max(mean_slots, int(predictions[short].max()))
    limits = dataclasses.replace(packing_lib.limits(length), masks=1 << (slots - 1).bit_length() if slots else 0)
    members, starts = packing_lib.fill(tokens[short], predictions[short], limits)
    full = max(1, min(max_tokens // length, max_slots // max(1, limits.masks)))
    batches = []
    for begin in range(0, len(starts) - 1, full):
        bounds = starts[begin : begin + full + 1]
        rows = short[members[bounds[0] : bounds[-1]]].tolist()
        batches.append(PackedBatch(rows, bounds - bounds[0], limits, min(full, _power(len(bounds) - 1))))
    return batches, too_long


def _power(number):
    """Returns the smallest of 0, 1, 4, 16, ... that is at least `number`."""
    power = min(number, 1)
    while power < number:
        power *= _GROWTH
    return power


def _global_positions(positions, shape):
    """Returns the positions of each row, int32 [batch, k], -1 for none; k is one of few numbers."""
    size = max(len(row_positions) for row_positions in positions)
    return _in_slots(positions, (shape[0], min(shape[1], _power(max(1, size)))), -1)


def _in_slots(positions, shape, filler=0):
    """Returns the positions of each row in the first slots of an int32 array [batch, slots]."""
    padded = np.full(shape, filler, np.int32)
    for i, row_positions in enumerate(positions):
        padded[i, : len(row_positions)] = row_positions
    return padded


def _as_ones(positions, shape):
    """Returns an int32 array [batch, sequence] with ones at the positions of each row."""
    ones = np.zeros(shape, np.int32)
    for i, row_positions in enumerate(positions):
        ones[i, list(row_positions)] = 1
    return ones
