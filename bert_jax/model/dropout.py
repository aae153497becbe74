"""Drops out elements by random bits that are a hash of a seed and an element's index; defines that hash."""

import functools

import jax
import jax.numpy as jnp

# Odd, so that each axis runs through all of 2 ** 32 before it repeats; last axis last.
_AXIS_MULTIPLIERS = (0x165667B1, 0xC2B2AE35, 0x85EBCA6B, 0x27D4EB2F, 0x9E3779B1)


def dropout(x: jax.Array, rate: float, seed: jax.Array | None, index: jax.Array | None = None) -> jax.Array:
    """Zeroes elements with probability `rate` and scales the others by 1 / (1 - rate), which keeps the mean.

    The bits are a hash of the element's index and the seed: they fuse into the arithmetic around them, they depend
    neither on sharding nor on the platform, and the backward pass computes them again, from the seed alone.

    Args:
      x: any shape.
      rate: in [0, 1); realised in steps of 2 ** -32.
      seed: uint32 [2], different for each call of a step and for each step; None returns x unchanged. With uint32
        [2 + rows] the further numbers say which row of a larger array each row of x is: parts of an array then drop
        what the whole would.
      index: number of each element, uint32, a shape that broadcasts to x's, such as `attention_index` gives; None: by
        its place in x.

    Returns:
      Shape and dtype of x.
    """
    if seed is None or rate == 0.0:
        return x
    return _dropped(x, rate, seed, index)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _dropped(x, rate, seed, index):
    threshold = keep_threshold(rate)
    index = _element_index(x.shape, seed[2:]) if index is None else index
    kept = hash_bits(index + seed[0], seed[1]) < jnp.uint32(threshold)
    return jnp.where(kept, x * (2**32 / threshold), jnp.zeros((), x.dtype))


_dropped.defvjp(
    lambda x, rate, seed, index: (_dropped(x, rate, seed, index), (seed, index)),
    lambda rate, saved, gradient: (_dropped(gradient, rate, *saved), None, None),
)


def dropout_seeds(key: jax.Array, *shape: int, row_numbers: jax.Array | None = None) -> jax.Array:
    """Returns seeds for `dropout`, uint32 [*shape, 2] or with row numbers [*shape, 2 + rows], drawn at once.

    Args:
      key: a jax.random key.
      *shape: shape of the array of seeds.
      row_numbers: which row of a larger batch each row is, int32 [rows]; None for a batch by itself.
    """
    seeds = jax.random.bits(key, (*shape, 2), jnp.uint32)
    if row_numbers is None:
        return seeds
    numbers = jnp.broadcast_to(row_numbers.astype(jnp.uint32), (*shape, *row_numbers.shape))
    return jnp.concatenate([seeds, numbers], axis=-1)


def keep_threshold(rate: float) -> int:
    """Returns the number that the bits of an element are below where it is kept, from 1 to 2 ** 32 - 1."""
    return min(max(1, round((1.0 - rate) * 2**32)), 2**32 - 1)


def hash_bits(x: jax.Array, word: jax.Array) -> jax.Array:
    """Returns 32 well-mixed bits of two words: multiply and xor-shift ("lowbias32"), the second word in between.

    Args:
      x, word: uint32, of shapes that broadcast.

    Returns:
      uint32, of the broadcast shape.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15) ^ word) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def attention_index(row: jax.Array, head: jax.Array, query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns the numbers of attention weights as elements of [batch, heads, query, key], uint32, broadcast.

    Args:
      row, head, query, key: int32, which row of the batch, head, and positions of query and key, of shapes that
        broadcast.
    """
    places = zip((row, head, query, key), _AXIS_MULTIPLIERS[-4:], strict=True)
    numbers = [place.astype(jnp.uint32) * jnp.uint32(multiplier) for place, multiplier in places]
    return numbers[0] + numbers[1] + numbers[2] + numbers[3]


def row_numbers(seed: jax.Array, rows: int) -> jax.Array:
    """Returns which row of the whole batch each row is, int32 [rows]: as the seed says, else from 0; see `dropout`."""
    return seed[2:].astype(jnp.int32) if seed.shape[0] > 2 else jnp.arange(rows, dtype=jnp.int32)


def _element_index(shape, rows):
    """Numbers each element in a way that does not depend on the shape, so that padding changes no element's bits.

    Rows count from 0, unless `rows` says which each is, uint32 [shape[0]].
    """
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        number = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        if axis == 0 and rows.shape[0]:
            number = rows.reshape(-1, *[1] * (len(shape) - 1))
        index += number * jnp.uint32(_AXIS_MULTIPLIERS[axis - len(shape)])
    return index
