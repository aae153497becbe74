"""What tells tokens' places apart inside attention: rotations of queries and keys, and scores of relative distances."""

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.model.spec import Spec


def rotations(positions: jax.Array, head_size: int, base: float) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of rotary positions (Su et al. 2021, section 3.2.2), float32 [..., sequence, head_size / 2].

    Args:
      positions: int32 [..., sequence], of each token in its sequence.
      head_size: even; units i and i + head_size / 2 are turned together.
      base: the longest wavelength is 2 pi times it, nearly.
    """
    frequencies = jnp.asarray(1.0 / base ** (np.arange(0, head_size, 2, dtype=np.float32) / head_size), jnp.float32)
    angles = positions.astype(jnp.float32)[..., None] * frequencies.reshape((1,) * positions.ndim + (-1,))
    return jnp.cos(angles), jnp.sin(angles)


def rotated(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """x [batch, heads, sequence, head_size] turned by `rotations` of [1 or batch, sequence]; in float32, x's dtype."""
    cosine, sine = (angle[:, None] for angle in rotation)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)
    return turned.astype(x.dtype)


def distance_rows(spec: Spec) -> int:
    """Rows of the table of relative distances: half for tokens before, half for those behind."""
    return 2 * (spec.relative_buckets or spec.relative_span)


def rows_of_distances(spec: Spec, sequence: int) -> np.ndarray:
    """The table's row of each distance (query's place less key's) from 1 - sequence to sequence - 1; int64.

    As in DeBERTa (He et al. 2021, section 3.1): distances beyond the span share its last rows; with buckets
    (DeBERTa v2) those over half as many share rows by their logarithm.
    """
    distances = np.arange(1 - sequence, sequence)
    half = distance_rows(spec) // 2
    if spec.relative_buckets:
        distances = _buckets(distances, spec.relative_buckets, spec.relative_span)
    return np.clip(distances + half, 0, 2 * half - 1)


def _buckets(distances, buckets, span):
    """Signed buckets of distances. In float32 as published: a distance on the border of two is in one or the other."""
    middle = buckets // 2
    far = np.abs(distances) > middle
    if not far.any():
        return distances
    times = np.where(far, np.abs(distances), middle).astype(np.float32) / np.float32(middle)
    scale = np.log(np.float32((span - 1) / middle))
    logarithmic = np.ceil(np.log(times) / scale * np.float32(middle - 1)) + middle
    return np.where(far, logarithmic * np.sign(distances), distances).astype(np.int64)


def by_key(scores: jax.Array) -> jax.Array:
    """Scores of distances, [..., sequence, 2 sequence - 1], as scores of keys, [..., sequence, sequence].

    The i-th query's score of its distance d from a key, at d + sequence - 1, is moved to the place of the key, i - d.
    A reversal and two reshapes: nothing is gathered.
    """
    sequence = scores.shape[-2]
    reversed_ = scores[..., ::-1]  # the key at i - d is now at (i - d) - i + sequence - 1
    wide = jnp.pad(reversed_, [(0, 0)] * (scores.ndim - 1) + [(0, 1)])
    flat = wide.reshape(*scores.shape[:-2], 2 * sequence * sequence)
    # Row i should begin i places earlier than the row before it: rows that are one shorter begin so.
    flat = flat[..., sequence - 1 : sequence - 1 + sequence * (2 * sequence - 1)]
    return flat.reshape(*scores.shape[:-2], sequence, 2 * sequence - 1)[..., :sequence]
