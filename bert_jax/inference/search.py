"""Compares vectors: similarities, and the nearest vectors of a corpus.

The order of what `nearest` returns is that of scores in float64. The device computes scores in float32, a block of the
corpus at a time, and from these follows which vectors may be among the nearest: only they are scored in float64.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import _moved
from bert_jax.errors import UserError

# Names as sentence-transformers writes them; distances are negated, so that more is nearer.
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

BLOCK = 8192  # vectors of the corpus that are compared at once
_QUERIES = 256  # and queries
_SPARE = 16  # vectors beyond top_k that are looked at
_SCORED = 1 << 22  # numbers of vectors that are scored in float64 at once
_SMALLEST = 2.0**-126  # smaller numbers may become 0 in float32
_SMALLEST_NORM = 1e-12  # as in sentence-transformers: a vector of zeros has a similarity of 0


def check_similarity(name: str) -> str:
    """Returns the name of a similarity. Raises UserError if it is none of SIMILARITIES."""
    if name not in SIMILARITIES:
        raise UserError(f"similarity: found {name!r}; expected {', '.join(SIMILARITIES)}")
    return name


@_moved.renamed_arguments(given="value")
def are_vectors(value: Any) -> bool:
    """Returns whether what a caller passed are vectors, as an array or a list of numbers, and not texts."""
    if isinstance(value, list | tuple):
        return bool(value) and (isinstance(value[0], int | float | np.number) or are_vectors(value[0]))
    if not hasattr(value, "shape") or not hasattr(value, "__array__") or hasattr(value, "itertuples"):
        return False
    dtype = getattr(value, "dtype", None)
    if not isinstance(dtype, np.dtype):
        dtype = np.asarray(value).dtype
    return dtype.kind not in "OUST"


def as_vectors(values: Any, name: str, size: int | None = None) -> np.ndarray:
    """Returns vectors as float32 or float64 [n, size]; a single one, [size], becomes one row.

    Raises:
      UserError: they are no finite numbers, or of another size; `name` is what the caller calls them.
    """
    vectors = np.asarray(values)
    if vectors.size == 0 and vectors.ndim < 2:
        return np.zeros((0, size or 0), np.float32)
    if vectors.dtype.kind not in "fiub" and vectors.dtype.name != "bfloat16":
        raise UserError(f"{name}: found {vectors.dtype}; expected texts, or vectors of numbers")
    if vectors.ndim not in (1, 2) or (size and vectors.shape[-1] != size):
        wanted = f"[n, {size}]" if size else "[n, size]"
        raise UserError(f"{name}: found an array of shape {list(vectors.shape)}; expected vectors {wanted}")
    vectors = np.atleast_2d(vectors)
    vectors = vectors if vectors.dtype in (np.float32, np.float64) else vectors.astype(np.float32)
    finite = np.isfinite(vectors).all(-1)
    if not finite.all():
        raise UserError(f"{name}: vector {int(np.flatnonzero(~finite)[0])} is not finite; expected numbers")
    return vectors


def similarities(first: np.ndarray, second: np.ndarray, kind: str, pairwise: bool = False) -> np.ndarray:
    """Returns the similarity of vectors, computed in float64 and rounded to float32.

    Args:
      first: [n, size].
      second: [m, size].
      kind: one of SIMILARITIES.
      pairwise: whether each vector is compared with the one in its own place, where n = m.

    Returns:
      float32 [n, m], or [n].
    """
    first, second = scaled(first, kind), scaled(second, kind)
    if pairwise:
        return _scores(first, second, kind).astype(np.float32)
    if kind in ("cosine", "dot"):
        return (first @ second.T).astype(np.float32)
    step = max(1, _SCORED // max(1, second.size))
    rows = [_scores(first[i : i + step, None], second[None], kind) for i in range(0, len(first), step)]
    return np.concatenate(rows).astype(np.float32) if rows else np.zeros((0, len(second)), np.float32)


def paired_scores(first: np.ndarray, second: np.ndarray, kind: str) -> np.ndarray:
    """Returns the similarity of each vector and the one in its own place, float64 [n], as `nearest` computes it.

    Args:
      first, second: [n, size].
      kind: one of SIMILARITIES.
    """
    return _scores(scaled(first, kind), scaled(second, kind), kind)


def nearest(
    queries: np.ndarray, blocks: Iterable[np.ndarray], top_k: int, kind: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Finds the nearest vectors of a corpus, a block at a time.

    Vectors of equal scores come in the order of the corpus.

    Args:
      queries: [n, size].
      blocks: the corpus, arrays [m, size] of at most some thousand vectors each.
      top_k: how many vectors are wanted.
      kind: one of SIMILARITIES.

    Yields:
      after each block, the nearest vectors so far, the nearest first: (their places in the corpus, int64 [n, k], their
      scores, float64 [n, k]), where k is top_k or, while they are fewer, the number of vectors so far.
    """
    exact = scaled(queries, kind)
    single = exact.astype(np.float32)
    places, scores = np.zeros((len(exact), 0), np.int64), np.zeros((len(exact), 0))
    first = 0
    for block in blocks:
        for begin in range(0, len(block), BLOCK):
            part = _Part(scaled(block[begin : begin + BLOCK], kind), kind)
            width = min(top_k, scores.shape[1] + len(part))
            new = [np.zeros((len(exact), width), dtype) for dtype in (np.int64, np.float64)]
            for i in range(0, len(exact), _QUERIES):
                rows = slice(i, i + _QUERIES)
                columns, values = _best_of_part(exact[rows], single[rows], part, top_k, kind, scores[rows])
                all_places = np.concatenate([places[rows], columns + first], axis=1)
                all_scores = np.concatenate([scores[rows], values], axis=1)
                order = np.argsort(-all_scores, axis=1, kind="stable")[:, :width]  # places ascend among equal scores
                new[0][rows] = np.take_along_axis(all_places, order, axis=1)
                new[1][rows] = np.take_along_axis(all_scores, order, axis=1)
            places, scores = new
            first += len(part)
        yield places, scores


def hits(places: Iterable[np.ndarray], scores: Iterable[np.ndarray], texts: Mapping[int, str]) -> list[list[dict]]:
    """Returns a list of {"index", "score"} for each query, with "text" for places in `texts`.

    Args:
      places, scores: for each query int64 [k] and float64 [k], the nearest first.
      texts: texts of the corpus by their places, those that are known.
    """
    return [
        [
            {"index": place, "score": score} | ({"text": texts[place]} if place in texts else {})
            for place, score in zip(row.tolist(), row_scores.tolist(), strict=True)
        ]
        for row, row_scores in zip(places, scores, strict=True)
    ]


def power_of_two(number):
    """Returns the least power of two that is at least a number: arrays have few shapes, each compiled once."""
    return 1 << max(0, number - 1).bit_length()


class _Part:
    """Holds a part of the corpus, on the host and on the device.

    Attributes:
      vectors: float64 [m, size], as `scaled` returns them.
      padded: float32 [a power of two, size] on the device.
      largest: the largest length of a vector, or for "manhattan" the largest sum of absolute values.
    """

    def __init__(self, vectors: np.ndarray, kind: str):
        padded = np.zeros((power_of_two(len(vectors)), vectors.shape[1]), np.float32)
        padded[: len(vectors)] = vectors
        sizes = np.abs(vectors).sum(-1) if kind == "manhattan" else np.sqrt(np.square(vectors).sum(-1))
        self.vectors, self.padded, self.largest = vectors, jax.device_put(padded), sizes.max(initial=0.0)

    def __len__(self):
        return len(self.vectors)


def _best_of_part(exact, single, part, top_k, kind, best):
    """Returns the vectors of a part that may be among the nearest of each query.

    Args:
      exact, single: queries, float64 and float32 [n, size].
      part: the part.
      top_k, kind: see `nearest`.
      best: float64 [n, k], the best scores before this part.

    Returns:
      (columns, ascending in each row, int64 [n, j]; their scores, float64 [n, j]). Rows with fewer than j end with
      scores of -inf.
    """
    count = len(part)
    kept = min(count, top_k + _SPARE)
    padded_queries = np.zeros((power_of_two(len(single)), single.shape[1]), np.float32)
    padded_queries[: len(single)] = single
    # A part with fewer vectors than are wanted may have any number of them: powers of two are compiled seldom.
    num_top = kept if kept < count else min(part.padded.shape[0], power_of_two(kept))
    values, columns = jax.device_get(top(padded_queries, part.padded, count, num_top, kind))
    values, columns = values[: len(single), :kept].astype(np.float64), columns[: len(single), :kept]
    error = _error(exact, part.largest, kind)
    threshold = np.full(len(exact), -np.inf)
    if best.shape[1] >= top_k:
        threshold = best[:, top_k - 1]
    if kept >= top_k:  # top_k of this part are at least so near
        threshold = np.maximum(threshold, _true(values[:, top_k - 1] - error, exact, kind))
    # What was left out has at most the last score that was not.
    complete = (kept == count) | (_true(values[:, -1] + error, exact, kind) < threshold)
    complete &= np.isfinite(values).all(-1)  # numbers beyond float32
    candidates = _true(values + error[:, None], exact[:, None], kind) >= threshold[:, None]
    candidates &= complete[:, None]
    columns = np.sort(np.where(candidates, columns, count), axis=1)[:, : candidates.sum(1).max(initial=0)]
    if not complete.all():
        columns = np.pad(columns, ((0, 0), (0, count - columns.shape[1])), constant_values=count)
        columns[~complete] = np.arange(count, dtype=columns.dtype)
    rows, places = np.nonzero(columns < count)
    scores = np.full(columns.shape, -np.inf)
    scores[rows, places] = _scores_of(exact, part.vectors, rows, columns[rows, places], kind)
    return columns.astype(np.int64), scores


def _scores_of(queries, vectors, rows, columns, kind):
    """Returns the scores of pairs, float64 [n]: of the queries `rows[i]` and the vectors `columns[i]`."""
    step = max(1, _SCORED // max(1, vectors.shape[1]))
    slices = [slice(i, i + step) for i in range(0, len(rows), step)]
    scores = [_scores(queries[rows[part]], vectors[columns[part]], kind) for part in slices]
    return np.concatenate(scores) if scores else np.zeros(0)


def scaled(vectors: np.ndarray, kind: str) -> np.ndarray:
    """Returns vectors [n, size] as float64, of length 1 for cosine similarity."""
    vectors = np.asarray(vectors, np.float64)
    if kind != "cosine":
        return vectors
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _SMALLEST_NORM)


def _scores(first, second, kind):
    """Returns scores of vectors beside each other, float64; cosine's have length 1."""
    if kind == "euclidean":
        return 0.0 - np.sqrt(np.square(first - second).sum(-1))
    if kind == "manhattan":
        return 0.0 - np.abs(first - second).sum(-1)
    return (first * second).sum(-1)


@functools.partial(jax.jit, static_argnames=("kept", "kind"))
def top(queries: jax.Array, part: jax.Array, count: int, kept: int, kind: str) -> tuple[jax.Array, jax.Array]:
    """Returns (float32 scores, columns), both [n, kept], of the first `count` vectors; the highest first.

    The score of a Euclidean distance d is (|query|^2 - d^2) / 2, which has the same order.
    """
    if kind == "manhattan":
        scores = jax.lax.map(lambda query: -jnp.abs(part - query[None, :]).sum(-1), queries)
    else:
        scores = jnp.matmul(queries, part.T, precision=jax.lax.Precision.HIGHEST)
        if kind == "euclidean":
            scores -= (jnp.square(part).sum(-1) / 2)[None, :]
    scores = jnp.where((jnp.arange(part.shape[0]) < count)[None, :], scores, -jnp.inf)
    return jax.lax.top_k(scores, kept)


def _true(scores, queries, kind):
    """Converts scores of `top` to the scale of `_scores`."""
    if kind != "euclidean":
        return scores
    return -np.sqrt(np.maximum(0.0, np.square(queries).sum(-1) - 2 * scores))


def _error(queries, largest, kind):
    """Returns by how much the scores of `top` may be off, float64 [n]: (size + 8) roundings of their largest terms.

    Args:
      queries: float64 [n, size].
      largest: see `_Part`.
      kind: one of SIMILARITIES.
    """
    unit, smallest = 2.0**-23 * (queries.shape[1] + 8), _SMALLEST * (queries.shape[1] + 8)
    if kind == "manhattan":
        return smallest + unit * (np.abs(queries).sum(-1) + largest)
    lengths = np.sqrt(np.square(queries).sum(-1))
    error = unit * largest * lengths + smallest * (1 + largest + lengths)
    return error + (unit * largest**2 if kind == "euclidean" else 0.0)
