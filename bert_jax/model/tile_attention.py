"""Computes attention in GPU kernels (Pallas, compiled by Triton), dropout included: scores never leave the chip.

Queries are compared with keys tile by tile, and the softmax is summed up over the tiles (FlashAttention-2: Dao 2023,
section 3.1). Weights are dropped by the hash of model/dropout.py at their place in the whole batch: the bits of
`kernels.xla`, on every mesh. cuDNN's own dropout counts calls in the compiled program, so that its bits would not be a
function of the step.

The backward pass keeps the outputs and, for each query, the logarithm of its sum, and computes the scores again: once
for the gradients of queries, once for those of keys and values.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from bert_jax.model.dropout import attention_index, hash_bits, keep_threshold, row_numbers
from bert_jax.model.kernels import RESULTS, AttentionMask, repeat_heads
from bert_jax.model.layouts import BATCH_AXES, LAYOUTS, active_mesh, num_shards
from bert_jax.model.positions import apply_rotary
from bert_jax.processes import private_jax

_MASKED = -1e30


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Describes a call, for the kernels; everything in it is known when they are compiled.

    Attributes:
      tile: queries of a program, and keys that they are compared with at once.
      tiles: tiles of a row.
      heads, kv_heads, head_size: heads of the queries, and of the keys and values, on this device.
      rate: dropout rate of the weights.
      causal, window: see AttentionMask.
    """

    tile: int
    tiles: int
    heads: int
    kv_heads: int
    head_size: int
    rate: float
    causal: bool
    window: int | None

    @property
    def times(self) -> int:
        """Returns the number of query heads that a head of keys serves."""
        return self.heads // self.kv_heads

    @property
    def warps(self) -> int:
        """Returns the number of warps of a program; with fewer, registers would not hold what it adds up."""
        return 8 if self.head_size > 64 or self.tile == 32 else 4

    @property
    def reach(self) -> int:
        """Returns how many tiles away the window ends."""
        return self.tiles if self.window is None else -(-self.window // self.tile)

    def key_tiles(self, tile) -> tuple[jax.Array, jax.Array]:
        """Returns the first tile of keys that a tile of queries sees, and the one behind the last."""
        last = tile if self.causal else jnp.minimum(tile + self.reach, self.tiles - 1)
        return jnp.maximum(tile - self.reach, 0), last + 1

    def query_tiles(self, tile) -> tuple[jax.Array, jax.Array]:
        """Returns the first tile of queries that sees a tile of keys, and the one behind the last."""
        first = tile if self.causal else jnp.maximum(tile - self.reach, 0)
        return first, jnp.minimum(tile + self.reach, self.tiles - 1) + 1


def tile_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    head_size: int,
    rotation: tuple[jax.Array, jax.Array] | None = None,
    rate: float = 0.0,
    seed: jax.Array | None = None,
) -> jax.Array:
    """Returns attention outputs, [batch, sequence, heads x head_size], each device computing its own rows and heads.

    Args:
      query: [batch, sequence, heads x head_size]; rows are filled up to whole tiles.
      key, value: [batch, sequence, kv_heads x head_size]; each of their heads serves as many query heads in a row.
      mask: which tokens attend to which; where a query reaches none, its output is a mean of values.
      head_size: units of a head: 16, 32, 64 or 128.
      rotation: cosines and sines of rotary positions, float32 [1 or batch, sequence, head_size / 2]; None for none.
      rate: dropout rate of the attention weights.
      seed: dropout seed, uint32 [2] or [2 + batch], see `dropout`; None for no dropout.
    """
    batch, sequence, units = query.shape
    rate = rate if seed is not None else 0.0
    seed = jnp.zeros(2, jnp.uint32) if seed is None else seed
    mesh = active_mesh()
    shards = 1 if mesh is None else num_shards(mesh, "tensor")
    if rotation is not None:
        query, key = (_turned(x, head_size, rotation) for x in (query, key))
    if key.shape[2] // head_size % shards:  # too few heads of keys to go round
        key, value = (repeat_heads(x, head_size, units // key.shape[2]) for x in (key, value))
    tile = 32 if query.dtype == jnp.float32 else 64
    missing = -sequence % tile
    arrays = [jnp.pad(x, [(0, 0), (0, missing), (0, 0)]) for x in (query, key, value)]
    segments = [jnp.pad(x, [(0, 0), (0, missing)]) for x in (mask.query_segments(), mask.segments())]
    shape = _Shape(
        tile=tile,
        tiles=(sequence + missing) // tile,
        heads=units // head_size // shards,
        kv_heads=key.shape[2] // head_size // shards,
        head_size=head_size,
        rate=rate,
        causal=mask.causal,
        window=mask.window,
    )
    places = (seed[:2], row_numbers(seed, batch), jnp.arange(shards, dtype=jnp.int32) * shape.heads)

    def run(arrays, segments, places):
        query, key, value = (x.reshape(*x.shape[:2], -1, head_size) for x in arrays)
        return _attention(shape, query, key, value, segments, places).reshape(arrays[0].shape)

    if mesh is not None:
        split, by_row = LAYOUTS["units"], LAYOUTS["hidden"]
        places_split = (jax.P(), jax.P(BATCH_AXES), jax.P("tensor"))
        specs = ([split] * 3, [by_row] * 2, places_split)
        run = jax.shard_map(run, in_specs=specs, out_specs=split, check_vma=False)
    return run(arrays, segments, places)[:, :sequence]


def _turned(x, head_size, rotation):
    heads = x.reshape(*x.shape[:2], -1, head_size).swapaxes(1, 2)
    return apply_rotary(heads, rotation).swapaxes(1, 2).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(shape, query, key, value, segments, places):
    """Returns [batch, sequence, heads, head_size]; queries, keys and values have this form too."""
    return _saving(shape, query, key, value, segments, places)[0]


def _saving(shape, query, key, value, segments, places):
    arrays = {"query": query, "key": key, "value": value}
    tokens = jax.ShapeDtypeStruct((query.shape[0], shape.heads, query.shape[1]), jnp.float32)
    output, sums = _call(_forward, "tile_attention", shape, arrays, segments, places, {"query": query, "sums": tokens})
    output, sums = checkpoint_name(output, RESULTS), checkpoint_name(sums, RESULTS)
    return output, (query, key, value, segments, places, output, sums)


def _gradients(shape, saved, gradient):
    query, key, value, segments, places, output, sums = saved
    gradient = gradient.astype(query.dtype)
    # For each query the sum, over its keys, of a weight times the weight's gradient.
    shared = jnp.einsum("bsnd,bsnd->bns", gradient, output, preferred_element_type=jnp.float32)
    arrays = {"query": query, "key": key, "value": value, "gradient": gradient, "sums": sums, "shared": shared}
    call = functools.partial(_call, shape=shape, arrays=arrays, segments=segments, places=places)
    (of_query,) = call(_backward_queries, "tile_attention_queries", results={"query": query})
    of_key, of_value = call(_backward_keys, "tile_attention_keys", results={"key": key, "value": value})
    return of_query, of_key, of_value, None, None


_attention.defvjp(_saving, _gradients)


def _call(kernel, name, shape, arrays, segments, places, results):
    """Runs a kernel on arrays by name; its results are shaped as those that are given.

    A program has a tile of queries of one head, or a tile of keys of one head of keys where it returns their gradients.
    """
    pallas, _ = private_jax.pallas()
    by_keys = "key" in results
    heads, row = (shape.kv_heads if by_keys else shape.heads), shape.tiles * shape.tile
    own, whole = (lambda row, head, tile: (row, tile, head, 0)), (lambda row, head, tile: (row, 0, head, 0))
    if by_keys:
        keys = pallas.BlockSpec((None, shape.tile, None, shape.head_size), own)
        queries = pallas.BlockSpec((None, row, shape.times, shape.head_size), whole)
        numbers = pallas.BlockSpec((None, shape.times, row), lambda row, head, tile: (row, head, 0))
    else:
        keys = pallas.BlockSpec(
            (None, row, None, shape.head_size), lambda row, head, tile: (row, 0, head // shape.times, 0)
        )
        queries = pallas.BlockSpec((None, shape.tile, None, shape.head_size), own)
        numbers = pallas.BlockSpec((None, None, shape.tile), lambda row, head, tile: (row, head, tile))
    kinds = {"query": queries, "gradient": queries, "key": keys, "value": keys, "sums": numbers, "shared": numbers}
    line = pallas.BlockSpec((None, row), lambda row, head, tile: (row, 0))
    place_specs = [
        pallas.BlockSpec((2,), lambda row, head, tile: (0,)),
        pallas.BlockSpec((1,), lambda row, head, tile: (row,)),
        pallas.BlockSpec((1,), lambda row, head, tile: (0,)),
    ]
    return pallas.pallas_call(
        functools.partial(kernel, shape),
        grid=(arrays["query"].shape[0], heads, shape.tiles),
        in_specs=[*place_specs, line, line, *(kinds[array] for array in arrays)],
        out_specs=[kinds[result] for result in results],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results.values()],
        compiler_params=private_jax.triton().CompilerParams(num_warps=shape.warps, num_stages=2),
        name=name,
    )(*places, *segments, *arrays.values())


class _Program:
    """Holds what the kernels share: the place of a program in the batch, and which token may attend to which."""

    def __init__(self, shape, seed, rows, first_head, ours, theirs):
        pallas, _ = private_jax.pallas()
        self._shape, self._segments = shape, (ours, theirs)
        self._seed, self._row, self._first_head = (seed[0], seed[1]), rows[0], first_head[0]
        self.head, self.tile = pallas.program_id(1), pallas.program_id(2)

    def tokens(self, tile):
        """Returns the slice of a tile in a row."""
        return private_jax.pallas()[0].ds(tile * self._shape.tile, self._shape.tile)

    def numbers(self, tile, axis):
        """Returns the positions of a tile's queries, int32 [queries, 1], or keys, int32 [1, keys]."""
        size = self._shape.tile
        return tile * size + jax.lax.broadcasted_iota(jnp.int32, (size, 1) if axis == 0 else (1, size), axis)

    def scores(self, query, key, query_tile, key_tile):
        """Returns (scores of a tile, float32 [queries, keys]; whether each key may be attended to)."""
        shape = self._shape
        ours, theirs = (x[self.tokens(tile)] for x, tile in zip(self._segments, (query_tile, key_tile), strict=True))
        allowed = (ours[:, None] == theirs[None, :]) & (theirs != 0)[None, :]
        if shape.causal or shape.window is not None:
            keys, queries = self.numbers(key_tile, 1), self.numbers(query_tile, 0)
            distance = keys - queries  # how far the key stands behind the query
            if shape.window is not None:
                allowed = allowed & (jnp.abs(distance) <= shape.window)
            if shape.causal:
                allowed = allowed & (distance <= 0)
        scores = _product(query, key, trans_b=True) * shape.head_size**-0.5
        return jnp.where(allowed, scores, _MASKED), allowed

    def dropped(self, weights, head, query_tile, key_tile):
        """Returns weights after dropout, with the bits that `dropout` has for their place in the whole batch."""
        if not self._shape.rate:
            return weights
        threshold = keep_threshold(self._shape.rate)
        queries, keys = self.numbers(query_tile, 0), self.numbers(key_tile, 1)
        index = attention_index(self._row, self._first_head + head, queries, keys) + self._seed[0]
        kept = hash_bits(index, self._seed[1]) < jnp.uint32(threshold)
        return jnp.where(kept, weights * (2**32 / threshold), 0.0)

    def score_gradients(self, weights, of_weights, shared, dtype):
        """Returns the gradients of a tile's scores, in the dtype of the products, from those of its weights."""
        return (weights * (of_weights - shared[:, None]) * self._shape.head_size**-0.5).astype(dtype)


def _product(first, second, **transposed):
    """Returns a product in float32; float32 factors are not rounded to what tensor cores take."""
    precision = jax.lax.Precision.HIGHEST if first.dtype == jnp.float32 else None
    return private_jax.triton().dot(first, second, precision=precision, **transposed)


def _forward(shape, seed, rows, first_head, ours, theirs, query, key, value, output, sums):
    program = _Program(shape, seed, rows, first_head, ours, theirs)
    queries = query[...]

    def add(tile, sofar):
        mixed, largest, total = sofar
        tokens = program.tokens(tile)
        scores, _ = program.scores(queries, key[tokens, :], program.tile, tile)
        larger = jnp.maximum(largest, scores.max(1))
        before, weights = jnp.exp(largest - larger), jnp.exp(scores - larger[:, None])
        kept = program.dropped(weights, program.head, program.tile, tile).astype(value.dtype)
        mixed = mixed * before[:, None] + _product(kept, value[tokens, :])
        return mixed, larger, total * before + weights.sum(1)

    nothing = jnp.zeros((shape.tile, shape.head_size), jnp.float32)
    start = (nothing, jnp.full((shape.tile,), _MASKED, jnp.float32), jnp.zeros((shape.tile,), jnp.float32))
    first, end = shape.key_tiles(program.tile)
    mixed, largest, total = jax.lax.fori_loop(first, end, add, start)
    output[...] = (mixed / total[:, None]).astype(output.dtype)
    sums[...] = largest + jnp.log(total)


def _backward_queries(
    shape, seed, rows, first_head, ours, theirs, query, key, value, gradient, sums, shared, query_gradient
):
    program = _Program(shape, seed, rows, first_head, ours, theirs)
    queries, read, logarithms, common = query[...], gradient[...], sums[...], shared[...]

    def add(tile, total):
        tokens = program.tokens(tile)
        keys = key[tokens, :]
        scores, allowed = program.scores(queries, keys, program.tile, tile)
        weights = jnp.where(allowed, jnp.exp(scores - logarithms[:, None]), 0.0)
        of_weights = _product(read, value[tokens, :], trans_b=True)
        of_weights = program.dropped(of_weights, program.head, program.tile, tile)
        return total + _product(program.score_gradients(weights, of_weights, common, keys.dtype), keys)

    nothing = jnp.zeros((shape.tile, shape.head_size), jnp.float32)
    first, end = shape.key_tiles(program.tile)
    total = jax.lax.fori_loop(first, end, add, nothing)
    query_gradient[...] = total.astype(query_gradient.dtype)


def _backward_keys(
    shape, seed, rows, first_head, ours, theirs, query, key, value, gradient, sums, shared, key_gradient, value_gradient
):
    program = _Program(shape, seed, rows, first_head, ours, theirs)
    keys, values = key[...], value[...]
    nothing = jnp.zeros((shape.tile, shape.head_size), jnp.float32)
    totals = (nothing, nothing)
    first, end = shape.query_tiles(program.tile)
    for member in range(shape.times):  # the query heads that this head of keys serves
        head = program.head * shape.times + member

        def add(tile, totals, member=member, head=head):
            tokens = program.tokens(tile)
            queries, read = query[tokens, member, :], gradient[tokens, member, :]
            scores, allowed = program.scores(queries, keys, tile, program.tile)
            weights = jnp.where(allowed, jnp.exp(scores - sums[member, tokens][:, None]), 0.0)
            kept = program.dropped(weights, head, tile, program.tile).astype(read.dtype)
            of_weights = program.dropped(_product(read, values, trans_b=True), head, tile, program.tile)
            of_scores = program.score_gradients(weights, of_weights, shared[member, tokens], queries.dtype)
            of_keys, of_values = totals
            return (
                of_keys + _product(of_scores, queries, trans_a=True),
                of_values + _product(kept, read, trans_a=True),
            )

        totals = jax.lax.fori_loop(first, end, add, totals)
    key_gradient[...] = totals[0].astype(key_gradient.dtype)
    value_gradient[...] = totals[1].astype(value_gradient.dtype)
