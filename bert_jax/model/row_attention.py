"""Computes attention of whole rows in one TPU kernel (Pallas), dropout included: scores never leave the chip's VMEM.

The kernel reads queries, keys and values as the projections give them, [batch, sequence, units], so that no heads are
transposed, turns them by rotary positions itself, and adds the scores of relative distances (row_distances.py). It
drops weights by the hash of model/dropout.py at their place in the whole batch: the bits of `kernels.xla`, on every
mesh. For the backward pass it keeps queries, keys and values alone, and computes the scores again.

A program of the grid has a block of queries of one row, for a few heads, and all keys of these heads that the window
lets the block see.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.model.dropout import attention_index, hash_bits, keep_threshold, row_numbers
from bert_jax.model.kernels import AttentionMask, repeat_heads
from bert_jax.model.layouts import BATCH_AXES, LAYOUTS, active_mesh, num_shards
from bert_jax.model.row_distances import (
    LANES,
    OVER_ROWS,
    PLAIN,
    TRANSPOSED,
    Distances,
    DistanceScores,
    by_distance,
    by_distance_flops,
    chip_has_strides,
    product,
)
from bert_jax.processes import private_jax

_SCORES = 1 << 18  # the most scores that a program holds at once
_BLOCK = 512  # the most queries of a program
_VMEM_BYTES = 64 << 20
_MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Describes a call, for the kernels; everything in it is known when they are compiled.

    Attributes:
      sequence: tokens of a row.
      heads, kv_heads, head_size: heads of the queries, and of the keys and values, on this device.
      rate: dropout rate of the weights.
      causal, window: see AttentionMask.
      rotary: whether queries and keys are turned by their positions.
      terms: the terms of the scores that depend on relative distances, see row_distances.TERMS.
      strided: whether the chip rolls by strides, see row_distances.chip_has_strides.
    """

    sequence: int
    heads: int
    kv_heads: int
    head_size: int
    rate: float
    causal: bool
    window: int | None
    rotary: bool
    terms: tuple[str, ...]
    strided: bool

    @property
    def times(self) -> int:
        """Returns the number of query heads that a head of keys serves."""
        return self.heads // self.kv_heads

    @property
    def kv_block(self) -> int:
        """Returns the number of heads of keys of a program."""
        block = math.lcm(self.head_size, LANES) // self.head_size
        return block if self.kv_heads % block == 0 else self.kv_heads

    @property
    def scale(self) -> float:
        """Returns the factor of the sum of a score's terms."""
        return (self.head_size * (1 + len(self.terms))) ** -0.5

    @property
    def reads_all_keys(self) -> bool:
        """Returns whether a block of queries is compared with all keys of its row, and not with a window's."""
        return self.window is None or bool(self.terms)

    @property
    def near(self) -> int:
        """Returns the number of keys that a block of queries is compared with."""
        if self.reads_all_keys:
            return self.sequence
        return min(self.sequence, self.block + 2 * self._margin)

    @property
    def block(self) -> int:
        """Returns the number of queries of a program: a multiple of 128 that divides the row."""
        keys = self.sequence if self.reads_all_keys else min(self.sequence, _BLOCK + 2 * self._margin)
        scores = _SCORES // 2 if self.terms else _SCORES
        limit = max(LANES, min(_BLOCK if self.sequence > _BLOCK else self.sequence, scores // keys))
        return max(size for size in range(LANES, limit + 1, LANES) if self.sequence % size == 0)

    def first_key(self, block):
        """Returns the first of the keys of a block of queries, a multiple of 128."""
        if self.near == self.sequence:
            return 0
        first = jnp.clip(block * self.block - self._margin, 0, self.sequence - self.near)
        return private_jax.pallas()[0].multiple_of(first, LANES)

    def products(self, backward: bool) -> int:
        """Returns the FLOPs of a kernel's matrix products for one row of the batch."""
        times = 2 if backward else 1
        block = 2 * (5 if backward else 2) * self.block * self.near * self.head_size
        turn = 2 * times * self.head_size**2 if self.rotary else 0  # a query takes it, and a key
        block += self.block * turn
        for term in self.terms:
            block += by_distance_flops(term, self.sequence, self.block, self.head_size, backward)
        return self.heads * self.sequence // self.block * block + self.kv_heads * self.sequence * turn

    def ordered(self, row, group):
        """Returns a row and a group of heads in the order of the grid, or what the grid has in the order of these.

        With tables of distances the groups come first, so that a group's tables are read once for all rows.
        """
        return (group, row) if self.terms else (row, group)

    @property
    def _margin(self):
        return -(-(self.window or 0) // LANES) * LANES


def row_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    head_size: int,
    rotation: tuple[jax.Array, jax.Array] | None = None,
    rate: float = 0.0,
    seed: jax.Array | None = None,
    distances: Distances | None = None,
) -> jax.Array:
    """Returns attention outputs, [batch, sequence, heads x head_size], each device computing its own rows and heads.

    Args:
      query: [batch, sequence, heads x head_size]; rows are filled up to a multiple of 128 tokens, if they are none.
      key, value: [batch, sequence, kv_heads x head_size]; each of their heads serves as many query heads in a row.
      mask: which tokens attend to which; where a query reaches none, its output is a mean of values.
      head_size: units of a head.
      rotation: cosines and sines of rotary positions, float32 [1 or batch, sequence, head_size / 2]; None for none.
      rate: dropout rate of the attention weights.
      seed: dropout seed, uint32 [2] or [2 + batch], see `dropout`; None for no dropout.
      distances: keys and queries of relative distances, in the dtype of `query`; None for no such scores.
    """
    batch, sequence, units = query.shape
    rate = rate if seed is not None else 0.0
    seed = jnp.zeros(2, jnp.uint32) if seed is None else seed
    rows = row_numbers(seed, batch)
    mesh = active_mesh()
    shards = 1 if mesh is None else num_shards(mesh, "tensor")
    if key.shape[2] // head_size % shards:  # too few heads of keys to go round
        times = units // key.shape[2]
        key, value = (repeat_heads(x, head_size, times) for x in (key, value))
        if distances and distances.keys is not None:
            distances = dataclasses.replace(distances, keys=repeat_heads(distances.keys, head_size, times))
    missing = -sequence % LANES

    def filled(x, axis=1):
        return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)]) if missing else x

    shape = _Shape(
        sequence=sequence + missing,
        heads=units // head_size // shards,
        kv_heads=key.shape[2] // head_size // shards,
        head_size=head_size,
        rate=rate,
        causal=mask.causal,
        window=mask.window,
        rotary=rotation is not None,
        terms=distances.terms if distances else (),
        strided=distances is not None and chip_has_strides(),
    )
    heads = jnp.arange(shards, dtype=jnp.int32) * shape.heads  # the first head of each device
    places = (seed[:2], rows, heads)
    query, key, value = filled(query), filled(key), filled(value)
    segments = filled(mask.query_segments()[:, :, None]), filled(mask.segments()[:, None, :], 2)
    turns = () if rotation is None else tuple(map(filled, _turns(rotation, batch)))
    tables = distances.tables if distances else ()

    def run(query, key, value, segments, turns, places, tables):
        if distances:  # on each device, so that the devices sum gradients of the tables, which have fewer rows
            named = zip(tables, shape.terms, strict=True)
            tables = tuple(by_distance(table, distances.rows, term, shape.sequence) for table, term in named)
        return _attention(shape, query, key, value, segments, turns, places, tables)

    if mesh is not None:
        split, by_row = LAYOUTS["units"], LAYOUTS["hidden"]
        specs = (split, split, split, (by_row, by_row), (by_row,) * len(turns),
                 (jax.P(), jax.P(BATCH_AXES), jax.P("tensor")), (jax.P(None, "tensor"),) * len(tables))  # fmt: skip
        run = jax.shard_map(run, in_specs=specs, out_specs=split, check_vma=False)
    return run(query, key, value, segments, turns, places, tables)[:, :sequence]


def _turns(rotation, batch):
    """Returns factors a and b, float32 [batch, sequence, head_size]: x turned is x * a + (x, halves swapped) * b."""
    cosine, sine = (jnp.broadcast_to(angle, (batch, *angle.shape[1:])) for angle in rotation)
    return jnp.concatenate([cosine, cosine], -1), jnp.concatenate([-sine, sine], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(shape, query, key, value, segments, turns, places, tables):
    return _saving(shape, query, key, value, segments, turns, places, tables)[0]


def _saving(shape, query, key, value, segments, turns, places, tables):
    arrays = (query, key, value)
    (output,) = _call(_forward, "row_attention", shape, arrays, segments, turns, places, tables, (query,))
    return output, (query, key, value, segments, turns, places, tables)


def _gradients(shape, saved, gradient):
    query, key, value, segments, turns, places, tables = saved
    arrays, like = (query, key, value, gradient.astype(query.dtype)), (query, key, value, *tables)
    of_query, of_key, of_value, *of_tables = _call(
        _backward, "row_attention_backward", shape, arrays, segments, turns, places, tables, like
    )
    return of_query, of_key, of_value, None, None, None, tuple(of_tables)


_attention.defvjp(_saving, _gradients)


def _call(kernel, name, shape, arrays, segments, turns, places, tables, like):
    """Runs a kernel on queries, keys, values (and gradients); its results are shaped as `like`."""
    pallas, tpu = private_jax.pallas()
    batch = arrays[0].shape[0]
    wide, narrow = shape.kv_block * shape.times * shape.head_size, shape.kv_block * shape.head_size

    def spec(size, index, mode=None):  # `index` takes the numbers of a row, a group of heads and a block
        return pallas.BlockSpec(
            size, lambda *numbers: index(*shape.ordered(*numbers[:2]), numbers[2]), pipeline_mode=mode
        )

    queries = spec((1, shape.block, wide), lambda row, group, block: (row, block, group))
    keys = spec((1, shape.sequence, narrow), lambda row, group, block: (row, 0, group))
    column = spec((1, shape.block, 1), lambda row, group, block: (row, block, 0))
    line = spec((1, 1, shape.sequence), lambda row, group, block: (row, 0, 0))
    turned = spec((1, shape.sequence, shape.head_size), lambda row, group, block: (row, 0, 0))
    sizes = [(2 * shape.sequence, narrow if term == "c2p" else wide) for term in shape.terms]
    once = pallas.Buffered(1)  # the next group's tables are not read ahead, which would take their memory twice
    by_distance = [spec(size, lambda row, group, block: (0, group), once) for size in sizes]
    specs = [queries, keys, keys, queries][: len(arrays)]
    outputs = [queries, keys, keys, *by_distance][: len(like)]
    is_backward = len(like) > 1
    scratch = [tpu.VMEM((shape.sequence, narrow), arrays[1].dtype)] * shape.rotary  # keys that are turned
    if is_backward:
        scratch += [tpu.VMEM((shape.sequence, narrow), jnp.float32)] * 2
        scratch += [tpu.VMEM(size, jnp.float32) for size in sizes]
    # Gradients of the tables are summed over the rows of the batch, one row after the other.
    summed = "arbitrary" if is_backward and shape.terms else "parallel"
    return pallas.pallas_call(
        functools.partial(kernel, shape),
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(*shape.ordered(batch, shape.kv_heads // shape.kv_block), shape.sequence // shape.block),
            in_specs=[*specs, column, line, *[turned] * len(turns), *by_distance],
            out_specs=outputs,
            scratch_shapes=scratch,
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", summed, "arbitrary"), vmem_limit_bytes=_VMEM_BYTES
        ),
        name=name,
        cost_estimate=pallas.CostEstimate(
            flops=batch * shape.products(is_backward),
            transcendentals=batch * shape.heads * shape.sequence * shape.near,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*arrays, *segments, *turns, *tables, *like)),
        ),
    )(*places, *arrays, *segments, *turns, *tables)


class _Program:
    """Holds what the two kernels share: where a program is, its keys and its weights.

    Attributes:
      block: number of the block of queries in its row.
      row: number of the row, among those of this device.
      near: slice of the keys that the block is compared with.
      distances: the scores of relative distances.
    """

    def __init__(self, shape, places, keys, segments, turns, tables, turned):
        pallas, _ = private_jax.pallas()
        self._shape, self._keys, self._segments, self._turns = shape, keys, segments, turns
        self._seed, rows, heads = places
        self.block = pallas.program_id(2)
        self.row, group = shape.ordered(pallas.program_id(0), pallas.program_id(1))
        self._row = rows[self.row]
        self._head = heads[0] + group * shape.kv_block * shape.times
        self._first_key = shape.first_key(self.block)
        own = pallas.multiple_of(self.block * shape.block, LANES)
        self._own_rows = pallas.ds(own, shape.block)
        tables = dict(zip(shape.terms, tables, strict=True))
        self.distances = DistanceScores(tables, shape.sequence, shape.block, own, shape.strided)
        self.near = pallas.ds(self._first_key, shape.near) if shape.near < shape.sequence else slice(None)
        if shape.rotary:
            self._keys = turned

            @pallas.when(self.block == 0)
            def _turn_keys():
                for head in range(shape.kv_block):
                    lanes = self.lanes(head)
                    turned[:, lanes] = self.turn(keys[0, :, lanes]).astype(turned.dtype)

    def lanes(self, head):
        """Returns the slice of a head's units."""
        return slice(head * self._shape.head_size, (head + 1) * self._shape.head_size)

    def lanes_by_term(self, head):
        """Returns the slices of a query head's units in the tables of distances."""
        return {"c2p": self.lanes(head // self._shape.times), "p2c": self.lanes(head)}

    def keys(self, head):
        """Returns the keys of a head of keys, turned, [near, head_size]."""
        lanes = self.lanes(head)
        return self._keys[self.near, lanes] if self._shape.rotary else self._keys[0, self.near, lanes]

    def queries(self, reference, head):
        """Returns the queries of a head, turned, [block, head_size]."""
        query = reference[0, :, self.lanes(head)]
        if not self._shape.rotary:
            return query
        return self.turn(query, self._own_rows).astype(query.dtype)

    def query_gradient(self, gradient):
        """Returns the gradient of a head's queries before they were turned, float32 [block, head_size]."""
        return self.turn_back(gradient, self._own_rows) if self._shape.rotary else gradient

    def turn(self, x, tokens=slice(None)):
        """Returns queries or keys turned by their positions, float32 [tokens, head_size]."""
        same, swapped = (factor[0, tokens, :] for factor in self._turns)
        return x.astype(jnp.float32) * same + self._swap(x) * swapped

    def turn_back(self, gradient, tokens=slice(None)):
        """Returns the gradient of `turn`'s argument, float32 [tokens, head_size], from that of its result."""
        same, swapped = (factor[0, tokens, :] for factor in self._turns)
        return gradient * same + self._swap(gradient * swapped)

    def _swap(self, x):
        """Swaps the halves of each vector, exactly: by a product, as lanes of half a register cannot be moved."""
        size = self._shape.head_size
        unit = jax.lax.broadcasted_iota(jnp.int32, (size, size), 0)
        other = jax.lax.broadcasted_iota(jnp.int32, (size, size), 1)
        permutation = (unit == jnp.where(other < size // 2, other + size // 2, other - size // 2)).astype(x.dtype)
        precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
        return product(x, permutation, PLAIN, precision=precision)

    def weights(self, query, key, head):
        """Returns (weights before dropout, float32 [block, near]; whether each key may be attended to)."""
        shape = self._shape
        scores = product(query, key, TRANSPOSED)
        if shape.terms:
            scores = scores + self.distances.scores(query, key, self.lanes_by_term(head))
        scores = scores * shape.scale
        ours, theirs = self._segments
        other = theirs[0, :, self.near]
        allowed = (ours[0] == other) & (other != 0)
        if shape.causal or shape.window is not None:
            distance = self._numbers(1) - self._numbers(0)  # how far the key stands behind the query
            if shape.window is not None:
                allowed = allowed & (jnp.abs(distance) <= shape.window)
            if shape.causal:
                allowed = allowed & (distance <= 0)
        scores = jnp.where(allowed, scores, _MASKED)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        return weights * (1.0 / weights.sum(-1, keepdims=True)), allowed

    def _numbers(self, axis):
        """Returns the positions of the queries (0) or keys (1), int32 [block, near]."""
        first = self.block * self._shape.block if axis == 0 else self._first_key
        return first + jax.lax.broadcasted_iota(jnp.int32, (self._shape.block, self._shape.near), axis)

    def dropped(self, weights, head):
        """Returns weights after dropout, with the bits that `dropout` has for their place in the whole batch."""
        shape = self._shape
        if not shape.rate:
            return weights
        threshold = keep_threshold(shape.rate)
        index = attention_index(self._row, self._head + head, self._numbers(0), self._numbers(1)) + self._seed[0]
        # Compared as signed numbers, which is what the chip has.
        bits = jax.lax.bitcast_convert_type(hash_bits(index, self._seed[1]) ^ jnp.uint32(1 << 31), jnp.int32)
        return jnp.where(bits < jnp.int32(threshold - (1 << 31)), weights * (2**32 / threshold), 0.0)


def _forward(shape, seed, rows, heads, query, key, value, ours, theirs, *rest):
    turns, tables, (output, *turned) = _parted(rest, 2 * shape.rotary, len(shape.terms))
    program = _Program(shape, (seed, rows, heads), key, (ours, theirs), turns, tables, *(turned or [None]))
    for head in range(shape.kv_block * shape.times):
        own, shared = program.lanes(head), head // shape.times
        weights, _ = program.weights(program.queries(query, head), program.keys(shared), head)
        kept = program.dropped(weights, head).astype(value.dtype)
        mixed = product(kept, value[0, program.near, program.lanes(shared)], PLAIN)
        output[0, :, own] = mixed.astype(output.dtype)


def _backward(shape, seed, rows, heads, query, key, value, gradient, ours, theirs, *rest):
    pallas, _ = private_jax.pallas()
    num_terms = len(shape.terms)
    turns, tables, (query_gradient, key_gradient, value_gradient), table_gradients, turned, sums = _parted(
        rest, 2 * shape.rotary, num_terms, 3, num_terms, shape.rotary
    )
    key_sum, value_sum, *table_sums = sums
    program = _Program(shape, (seed, rows, heads), key, (ours, theirs), turns, tables, *(turned or [None]))
    sums_by_term = dict(zip(shape.terms, table_sums, strict=True))
    last_block = program.block == shape.sequence // shape.block - 1

    @pallas.when(program.block == 0)
    def _begin():
        key_sum[...] = jnp.zeros_like(key_sum)
        value_sum[...] = jnp.zeros_like(value_sum)

    if num_terms:

        @pallas.when((program.block == 0) & (program.row == 0))
        def _begin_tables():
            for table_sum in table_sums:
                table_sum[...] = jnp.zeros_like(table_sum)

    for head in range(shape.kv_block * shape.times):
        own, shared = program.lanes(head), program.lanes(head // shape.times)
        queries, keys = program.queries(query, head), program.keys(head // shape.times)
        weights, allowed = program.weights(queries, keys, head)
        read = gradient[0, :, own]
        of_weights = program.dropped(product(read, value[0, program.near, shared], TRANSPOSED), head)
        of_scores = weights * of_weights
        of_scores = of_scores - weights * of_scores.sum(-1, keepdims=True)
        of_scores = jnp.where(allowed, of_scores * shape.scale, 0.0).astype(keys.dtype)
        kept = program.dropped(weights, head).astype(read.dtype)
        value_sum[program.near, shared] += product(kept, read, OVER_ROWS)
        of_keys, of_queries = product(of_scores, queries, OVER_ROWS), product(of_scores, keys, PLAIN)
        if num_terms:
            lanes = program.lanes_by_term(head)
            further = program.distances.gradients(of_scores, queries, keys, lanes, sums_by_term)
            of_queries, of_keys = of_queries + further[0], of_keys + further[1]
        key_sum[program.near, shared] += of_keys
        query_gradient[0, :, own] = program.query_gradient(of_queries).astype(query_gradient.dtype)

    @pallas.when(last_block)
    def _end():
        value_gradient[0] = value_sum[...].astype(value_gradient.dtype)
        for head in range(shape.kv_block):
            lanes = program.lanes(head)
            total = key_sum[:, lanes]
            key_gradient[0, :, lanes] = (program.turn_back(total) if shape.rotary else total).astype(key_gradient.dtype)

    if num_terms:

        @pallas.when(last_block & (program.row == pallas.num_programs(1) - 1))
        def _end_tables():
            for table_gradient, table_sum in zip(table_gradients, table_sums, strict=True):
                table_gradient[...] = table_sum[...].astype(table_gradient.dtype)


def _parted(references, *counts):
    """Returns lists of so many references each, and a list of the others."""
    ends = np.cumsum((0, *counts))
    return *(references[first:end] for first, end in itertools.pairwise(ends)), references[ends[-1] :]
