"""Stores vectors in fewer bits: int8 by ranges of each dimension, and one bit for each number.

The codes are those of sentence-transformers' `quantize_embeddings`.
"""

import functools
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.errors import UserError
from bert_jax.files import closest_path
from bert_jax.inference import search

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
RANGED = ("int8", "uint8")  # those that need the ranges of each dimension
_LEVELS = 255
_AT_ONCE = 4096  # vectors that are quantised together
_QUERIES = 256  # queries that are compared at once


def quantize(vectors: Any, precision: str, ranges: Any = None, calibration: Any = None) -> np.ndarray:
    """Returns vectors in another precision, as sentence-transformers' `quantize_embeddings` does.

    - "int8", "uint8": each dimension's range is divided into 255 steps; what is outside takes its end.
    - "binary", "ubinary": a bit for each number, 1 where it is above 0, eight in a byte, the first number in the
      highest bit (numpy.packbits). The bytes of "binary" are signed: less 128.

    Args:
      vectors: float [n, size], or a single one, [size].
      precision: one of PRECISIONS.
      ranges: float [2, size], lowest and highest value of each dimension, for int8 and uint8; None: see calibration.
      calibration: float [m, size], vectors whose ranges are taken; None: the vectors themselves.

    Returns:
      float32, int8 or uint8 [n, size]; with a bit for each number int8 or uint8 [n, ceil(size / 8)].

    Raises:
      UserError: the vectors are no floats, there is no such precision, or a single vector's ranges are asked for.
    """
    check_precision(precision)
    if np.asarray(vectors).dtype.kind in "iub":
        raise UserError(f"vectors: found {np.asarray(vectors).dtype}; expected floats")
    single, vectors = np.ndim(vectors) == 1, search.as_vectors(vectors, "vectors")
    if precision in RANGED and ranges is None and len(vectors):
        if calibration is None and len(vectors) < 2:
            raise UserError(f"precision={precision}: one vector has no ranges; expected calibration, vectors or ranges")
        ranges = ranges_of(vectors if calibration is None else search.as_vectors(calibration, "calibration"))
    if ranges is not None:
        ranges = check_ranges(ranges, vectors.shape[1])
    codes = _codes(vectors, precision, ranges)
    return codes[0] if single else codes


def check_precision(name: str) -> str:
    """Returns the name of a precision. Raises UserError if it is none of PRECISIONS."""
    if name not in PRECISIONS:
        raise UserError(f"precision: found {name!r}; expected {', '.join(PRECISIONS)}")
    return name


def check_ranges(ranges: Any, size: int) -> np.ndarray:
    """Returns ranges as float32 [2, size]. Raises UserError if they are none for vectors of this size."""
    ranges = np.asarray(ranges)
    if ranges.shape != (2, size) or ranges.dtype.kind not in "fiu":
        raise UserError(f"ranges: found {ranges.dtype} {list(ranges.shape)}; expected numbers [2, {size}]")
    if not np.isfinite(ranges).all() or (ranges[0] > ranges[1]).any():
        raise UserError("ranges: expected finite numbers, the lowest of each dimension in the first row")
    return ranges.astype(np.float32, copy=False)


def ranges_of(vectors: np.ndarray) -> np.ndarray:
    """Returns the lowest and the highest value of each dimension of vectors [n, size], [2, size]."""
    if not len(vectors):
        raise UserError("calibration: found no vector; expected some")
    return np.stack([vectors.min(0), vectors.max(0)])


def read_ranges(path: str) -> np.ndarray:
    """Returns the ranges of the vectors in a .npy file, float32 [2, size].

    Raises:
      UserError: there is no such file, or it holds no vectors; messages call it --calibration.
    """
    try:
        vectors = np.load(path, mmap_mode="r")
    except OSError as error:
        near = closest_path(path, is_folder=False)
        reason = error.strerror or "damaged"
        raise UserError(f"--calibration={path}: {reason}; expected .npy of vectors{near}") from error
    except (ValueError, EOFError) as error:
        raise UserError(f"--calibration={path}: no array; expected .npy, as embed writes it") from error
    if getattr(vectors, "ndim", 0) != 2 or not len(vectors) or vectors.dtype.kind != "f":
        kind = f"{vectors.dtype} {list(vectors.shape)}" if hasattr(vectors, "dtype") else type(vectors).__name__
        raise UserError(f"--calibration={path}: found {kind}; expected vectors of floats [n, size]")
    ranges = ranges_of(vectors).astype(np.float32)
    if not np.isfinite(ranges).all():
        raise UserError(f"--calibration={path}: a vector is not finite; expected numbers")
    return ranges


def code_size(precision: str, size: int) -> int:
    """Returns the numbers of a code of vectors of a size."""
    return -(-size // 8) if precision.endswith("binary") else size


def code_dtype(precision: str) -> np.dtype:
    """Returns the dtype of codes."""
    names = {"float32": "<f4", "int8": "i1", "uint8": "u1", "binary": "i1", "ubinary": "u1"}
    return np.dtype(names[precision])


def dequantized(codes: np.ndarray, precision: str, ranges: np.ndarray) -> np.ndarray:
    """Returns vectors near those that int8 or uint8 codes were made of: the middle of each step.

    Args:
      codes: int8 or uint8 [..., size].
      precision: "int8" or "uint8".
      ranges: float32 [2, size].

    Returns:
      float32 [..., size].
    """
    steps = _steps(ranges)
    levels = codes.astype(np.float32) + np.float32(128.5 if precision == "int8" else 0.5)
    return levels * steps + ranges[0]


def stream(vectors: Iterable[np.ndarray], precision: str, size: int, ranges: Any = None) -> Iterator[np.ndarray]:
    """Yields the code of each vector, in order.

    Args:
      vectors: float32 [size] each. Where int8 or uint8 codes lack `ranges`, they wait in a temporary file until the
        ranges of all are known.
      precision: one of PRECISIONS.
      size: numbers of a vector.
      ranges: float [2, size]; None for the ranges of the vectors themselves.

    Raises:
      UserError: see `quantize`.
    """
    if precision not in RANGED or ranges is not None:
        ranges = None if ranges is None else check_ranges(ranges, size)
        for number, vector in enumerate(vectors, 1):
            yield _codes(_finite(vector, number)[None], precision, ranges)[0]
        return
    low, high = np.full(size, np.inf, np.float32), np.full(size, -np.inf, np.float32)
    with tempfile.TemporaryFile() as file:
        number = 0
        for number, vector in enumerate(vectors, 1):
            np.minimum(low, _finite(vector, number), out=low)
            np.maximum(high, vector, out=high)
            file.write(np.ascontiguousarray(vector, np.float32).tobytes())
        if number == 1:
            raise UserError(f"--precision={precision}: one text has no ranges; expected more texts, or --calibration")
        file.seek(0)
        while block := file.read(4 * size * _AT_ONCE):
            yield from _codes(np.frombuffer(block, np.float32).reshape(-1, size), precision, np.stack([low, high]))


def nearest(queries: np.ndarray, blocks: Iterable[np.ndarray], top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the codes of a corpus that differ from those of queries in the fewest bits.

    Codes of equal distance come in the order of the corpus.

    Args:
      queries: uint8 [n, bytes], precision "ubinary".
      blocks: the corpus, arrays uint8 [m, bytes] of at most some thousand codes each.
      top_k: how many codes are wanted; all, where the corpus has fewer.

    Returns:
      (their places in the corpus, int64 [n, k]; the number of different bits, int64 [n, k]), the nearest first.
    """
    places, values = _nearest(_words(queries), map(_words, blocks), top_k, _nearest_bits)
    return places, np.rint(-values).astype(np.int64)


def nearest_int8(
    queries: np.ndarray, blocks: Iterable[np.ndarray], ranges: np.ndarray, top_k: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the int8 codes of a corpus that are nearest to queries, by scores in float32.

    Args:
      queries: float [n, size].
      blocks: the corpus, arrays int8 [m, size] of at most some thousand codes each.
      ranges: float32 [2, size].
      top_k: how many codes are wanted; all, where the corpus has fewer.
      kind: one of search.SIMILARITIES.

    Returns:
      (their places in the corpus, int64 [n, k]; values that grow with the similarity, float32 [n, k]), the nearest
      first.
    """
    asked = search.scaled(queries, kind).astype(np.float32)
    low, steps = ranges[0].astype(np.float32), _steps(ranges).astype(np.float32)
    find = functools.partial(search.top, kind=kind)
    return _nearest(asked, blocks, top_k, find, functools.partial(_decoded, low=low, steps=steps, kind=kind))


def _nearest(queries, blocks, top_k, find, prepare=lambda part: part):
    """Returns (places, int64 [n, k]; values, float32 [n, k]) of the codes with the highest values, the highest first.

    Args:
      queries: [n, numbers].
      blocks: the corpus, arrays [m, numbers].
      top_k: how many codes are wanted.
      find: function of padded queries, a padded block, its number of codes and k that returns (values, columns) [n, k],
        of equal values the first.
      prepare: function of a padded block on the device that returns what `find` reads.
    """
    places, values = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    first = 0
    for block in blocks:
        count = len(block)
        part = np.zeros((search.power_of_two(count), block.shape[1]), block.dtype)
        part[:count] = block
        kept = min(top_k, count)
        width = kept if kept < count else min(search.power_of_two(kept), len(part))
        device = prepare(jax.device_put(part))
        best = []
        for i in range(0, len(queries), _QUERIES):
            rows = queries[i : i + _QUERIES]
            filled = np.zeros((search.power_of_two(len(rows)), rows.shape[1]), rows.dtype)
            filled[: len(rows)] = rows
            best.append([array[: len(rows), :kept] for array in jax.device_get(find(filled, device, count, width))])
        if best:
            new_values, columns = (np.concatenate(arrays) for arrays in zip(*best, strict=True))
            values = np.concatenate([values, new_values], axis=1)
            places = np.concatenate([places, columns.astype(np.int64) + first], axis=1)
            order = np.argsort(-values, axis=1, kind="stable")[:, :top_k]  # places ascend among equal values
            places, values = (np.take_along_axis(array, order, axis=1) for array in (places, values))
        first += count
    return places, values


@functools.partial(jax.jit, static_argnames=("kept",))
def _nearest_bits(queries, part, count, kept):
    """Returns (minus the number of different bits, columns) of the nearest codes, [n, kept].

    Args:
      queries: uint32 [n, words].
      part: uint32 [m, words], of which the first `count` are codes.
      count: how many.
      kept: how many are wanted.
    """
    differing = jnp.zeros((len(queries), len(part)), jnp.int32)
    for word in range(queries.shape[1]):  # all of them become one loop over the pairs
        words = queries[:, word][:, None] ^ part[:, word][None, :]
        differing += jax.lax.population_count(words).astype(jnp.int32)
    values = jnp.where((jnp.arange(len(part)) < count)[None], -differing.astype(jnp.float32), -jnp.inf)
    return jax.lax.top_k(values, kept)  # whose float32 is far faster on CPUs than its int32


@functools.partial(jax.jit, static_argnames=("kind",))
def _decoded(codes, low, steps, kind):
    """Returns the vectors of int8 codes [m, size], float32, of length 1 for cosine similarity."""
    vectors = (codes.astype(jnp.float32) + 128.5) * steps[None] + low[None]
    if kind == "cosine":
        vectors /= jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors


def _codes(vectors, precision, ranges):
    """Returns codes of vectors [n, size]."""
    if precision == "float32":
        return vectors.astype(np.float32, copy=False)
    if precision.endswith("binary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return (bits ^ np.uint8(128)).view(np.int8) if precision == "binary" else bits
    if not len(vectors):
        return np.zeros(vectors.shape, code_dtype(precision))
    levels = np.clip(np.floor((vectors - ranges[0]) / _steps(ranges)), 0, _LEVELS)
    return (levels - 128).astype(np.int8) if precision == "int8" else levels.astype(np.uint8)


def _finite(vector, number):
    if not np.isfinite(vector).all():
        raise UserError(f"text {number}: its vector is not finite; expected numbers (--dtype=float32?)")
    return vector


def _steps(ranges):
    """Returns the size of each dimension's steps, [size]; 1 for a dimension that is constant."""
    steps = (ranges[1] - ranges[0]) / _LEVELS
    return np.where(steps == 0, np.float32(1), steps)


def _words(codes):
    """Returns bytes [n, bytes] as uint32 [n, words], filled up with zeros."""
    padded = np.zeros((len(codes), -(-codes.shape[1] // 4) * 4), np.uint8)
    padded[:, : codes.shape[1]] = codes
    return padded.view(np.uint32)
