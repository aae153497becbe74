"""Computes positions inside attention: rotary angles of queries and keys, and tables of relative distances."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import _moved
from bert_jax.model.spec import Spec


def rotary_frequencies(head_size: int, base: float, half: bool = False) -> np.ndarray:
    """Returns the frequencies of rotary positions, float32 [head_size / 2] (Su et al. 2021, section 3.2.2).

    Args:
      head_size: even.
      base: about the longest wavelength over 2 pi, such as 10000.
      half: whether they are rounded to float16, as in models that were trained in it (ESM-2).
    """
    frequencies = 1.0 / base ** (np.arange(0, head_size, 2, dtype=np.float32) / head_size)
    return (frequencies.astype(np.float16) if half else frequencies).astype(np.float32)


def rotary_angles(positions: jax.Array, head_size: int, base: float, half: bool = False) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines of rotary positions (Su et al. 2021, section 3.2.2).

    Args:
      positions: int32 [..., sequence], each token's position in its sequence.
      head_size: even; units i and i + head_size / 2 are rotated together.
      base, half: see `rotary_frequencies`.

    Returns:
      Two float32 arrays [..., sequence, head_size / 2].
    """
    return angles(positions, rotary_frequencies(head_size, base, half))


def angles(positions: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Returns cosines and sines of positions times frequencies, float32 [..., sequence, pairs].

    Args:
      positions: int32 [..., sequence].
      frequencies: float32 [pairs], radians per position.
    """
    by_pair = jnp.asarray(frequencies, jnp.float32).reshape((1,) * positions.ndim + (-1,))
    turned = positions.astype(jnp.float32)[..., None] * by_pair
    return jnp.cos(turned), jnp.sin(turned)


def apply_rotary(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates queries or keys by their positions, computed in float32.

    Args:
      x: [batch, heads, sequence, head_size].
      rotation: cosines and sines of each pair's angle, as `angles` returns them for positions [1 or batch, sequence].

    Returns:
      Shape and dtype of x.
    """
    cosine, sine = (angle[:, None] for angle in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return rotated.astype(x.dtype)


def relative_table_size(spec: Spec) -> int:
    """Returns the number of rows of the relative table: half for tokens before, half for tokens behind."""
    return 2 * (spec.relative_buckets or spec.relative_span)


def relative_rows(spec: Spec, sequence: int) -> np.ndarray:
    """Returns the relative table's row for each distance (query position minus key position), int64 [2 sequence - 1].

    The distances run from 1 - sequence to sequence - 1. As in DeBERTa (He et al. 2021, section 3.1), distances beyond
    the span share its last rows; with buckets (DeBERTa v2), distances of more than half the buckets share rows by their
    logarithm.
    """
    distances = np.arange(1 - sequence, sequence)
    half = relative_table_size(spec) // 2
    if spec.relative_buckets:
        distances = _buckets(distances, spec.relative_buckets, spec.relative_span)
    return np.clip(distances + half, 0, 2 * half - 1)


def _buckets(distances, buckets, span):
    """Returns signed buckets of distances, in float32 as published, which decides borderline distances."""
    middle = buckets // 2
    far = np.abs(distances) > middle
    if not far.any():
        return distances
    ratio = np.where(far, np.abs(distances), middle).astype(np.float32) / np.float32(middle)
    scale = np.log(np.float32((span - 1) / middle))
    logarithmic = np.ceil(np.log(ratio) / scale * np.float32(middle - 1)) + middle
    return np.where(far, logarithmic * np.sign(distances), distances).astype(np.int64)


def bias_rows(spec: Spec, sequence: int) -> np.ndarray:
    """Returns the row of the table of biases for each distance (query minus key position), int64 [2 sequence - 1].

    The distances run from 1 - sequence to sequence - 1. As in T5 (Raffel et al. 2020, section 2.1) the first half of
    the rows is for keys before the query, the other for keys behind it; half of each are one distance each, the others
    share their rows by their logarithm, and from `bias_distance` on the last one.
    """
    distances = np.arange(1 - sequence, sequence)
    half = spec.bias_buckets // 2
    single, far = half // 2, np.abs(distances)
    # In float32 as published, which decides borderline distances.
    ratio = np.log(np.maximum(far, single).astype(np.float32) / np.float32(single))
    scale = np.float32(math.log(spec.bias_distance / single))
    logarithmic = single + (ratio / scale * np.float32(half - single)).astype(np.int64)
    return np.where(far < single, far, np.minimum(logarithmic, half - 1)) + half * (distances < 0)


def position_bias(spec: Spec, table: jax.Array, sequence: int) -> jax.Array:
    """Returns what positions add to scores after they are scaled, float32 [1, heads, query, key].

    Args:
      spec: the model's spec.
      table: biases [rows, heads].
      sequence: tokens in a row.
    """
    by_distance = table.astype(jnp.float32)[bias_rows(spec, sequence)].T[None, :, None]
    return relative_shift(jnp.broadcast_to(by_distance, (1, spec.num_heads, sequence, 2 * sequence - 1)))


def relative_shift(scores: jax.Array) -> jax.Array:
    """Turns scores by distance, [..., sequence, 2 sequence - 1], into scores by key, [..., sequence, sequence].

    The score of query i at distance d, at index d + sequence - 1, moves to key i - d, by a reversal and two reshapes
    instead of a gather (as in Transformer-XL, Dai et al. 2019, appendix B).
    """
    sequence = scores.shape[-2]
    reversed_ = scores[..., ::-1]  # the key at i - d is now at (i - d) - i + sequence - 1
    wide = jnp.pad(reversed_, [(0, 0)] * (scores.ndim - 1) + [(0, 1)])
    flat = wide.reshape(*scores.shape[:-2], 2 * sequence * sequence)
    # Each row is to begin one element earlier than the row before it, which a reshape to rows one shorter does.
    flat = flat[..., sequence - 1 : sequence - 1 + sequence * (2 * sequence - 1)]
    return flat.reshape(*scores.shape[:-2], sequence, 2 * sequence - 1)[..., :sequence]


def __getattr__(name: str):
    return _moved.find("model.positions", name)
