"""Adds the scores of relative distances inside the kernel of row_attention.py (He et al. 2021, section 3.1).

The content-to-position score of query i and key j is the product of the query and the key of the distance i - j; the
position-to-content score is the product of the key and the query of that distance. Both are computed as products with
a slice of a table that is ordered by distance, whose row r is then rolled by r places: scores by distance become scores
by key, or by query, and neither ever leaves VMEM. Gradients are rolled the same way, with their rows reversed first,
because the chip rolls rows to the right alone.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.processes import private_jax

LANES = 128  # numbers of a vector register's row: blocks of units are multiples of it, or hold all units
PLAIN = (((1,), (0,)), ((), ()))  # a @ b
TRANSPOSED = (((1,), (1,)), ((), ()))  # a @ b.T
OVER_ROWS = (((0,), (0,)), ((), ()))  # a.T @ b
product = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
TERMS = ("c2p", "p2c")  # content to position, position to content


@dataclasses.dataclass(frozen=True)
class Distances:
    """Holds the projected embeddings of relative distances that the scores of a layer have terms of.

    Attributes:
      rows: the tables' row for each distance (query position minus key position) from 1 - sequence to sequence - 1, int
        [2 sequence - 1], as positions.relative_rows gives it.
      keys: keys of the distances, [table rows, kv_heads x head_size]; None without content-to-position scores.
      queries: queries of the distances, [table rows, heads x head_size]; None without position-to-content scores.
    """

    rows: np.ndarray
    keys: jax.Array | None = None
    queries: jax.Array | None = None

    @property
    def terms(self) -> tuple[str, ...]:
        """Returns which of TERMS there are."""
        return tuple(term for term, table in zip(TERMS, (self.keys, self.queries), strict=True) if table is not None)

    @property
    def tables(self) -> tuple[jax.Array, ...]:
        """Returns the table of each of `terms`, [rows of the table, units]."""
        return tuple(table for table in (self.keys, self.queries) if table is not None)


def by_distance(table: jax.Array, rows: np.ndarray, term: str, length: int) -> jax.Array:
    """Returns a table with a row for each distance, in the order that `DistanceScores` reads, [2 length, units].

    Keys of distances run from the distance `length` down, queries of distances from -length up.

    Args:
      table: [rows of the table, units].
      rows: see `Distances`; distances beyond it, of filled-up rows, take its first or last.
      term: one of TERMS.
      length: tokens of a filled-up row.
    """
    farthest = len(rows) // 2
    distances = length - np.arange(2 * length) if term == "c2p" else np.arange(2 * length) - length
    return table.at[rows[np.clip(distances, -farthest, farthest) + farthest]].get(mode="promise_in_bounds")


def by_distance_flops(term: str, length: int, block: int, head_size: int, backward: bool) -> int:
    """Returns the FLOPs of the matrix products that `DistanceScores` needs for a block of queries and one head.

    Args:
      term: one of TERMS.
      length, block: see `DistanceScores`.
      head_size: units of a head.
      backward: whether gradients are computed too, after the scores.
    """
    tokens, others = (block, length) if term == "c2p" else (length, block)
    scores = 2 * tokens * (others + LANES) * head_size
    if not backward:
        return scores
    reversals = 2 * tokens * LANES * (others + 2 * head_size)
    return 3 * scores + reversals


class DistanceScores:
    """Computes the scores of relative distances for a block of queries and all keys of a row, inside a kernel.

    Attributes:
      tables: the references of the tables as `by_distance` gives them, by term.
    """

    def __init__(self, tables: dict, length: int, block: int, first: jax.Array, strided: bool):
        """Describes the block.

        Args:
          tables: references of one row of heads, [2 length, units], by term.
          length: tokens of a row, a multiple of 128.
          block: queries of the block, a multiple of 128.
          first: position of the block's first query, int32.
          strided: whether the chip rolls each row by another number of places.
        """
        self.tables, self._length, self._block, self._first = tables, length, block, first
        self._roll = rolled_by_stride if strided else rolled_by_steps

    def scores(self, query: jax.Array, key: jax.Array, lanes: dict) -> jax.Array:
        """Returns the sum of the terms of a head, float32 [block, length], unscaled.

        Args:
          query: [block, head_size].
          key: [length, head_size].
          lanes: the slice of the head's units in each table, by term.
        """
        terms = []
        if "c2p" in self.tables:
            tiles = [
                self._by_place(query[start : start + LANES], self._read("c2p", start, lanes))
                for start in range(0, self._block, LANES)
            ]
            terms.append(jnp.concatenate(tiles, axis=0))
        if "p2c" in self.tables:
            tiles = [
                self._by_place(key[start : start + LANES], self._read("p2c", start, lanes)).T
                for start in range(0, self._length, LANES)
            ]
            terms.append(jnp.concatenate(tiles, axis=1))
        return sum(terms[1:], start=terms[0])

    def gradients(
        self, gradient: jax.Array, query: jax.Array, key: jax.Array, lanes: dict, sums: dict
    ) -> tuple[jax.Array | float, jax.Array | float]:
        """Returns gradients of a head's queries and keys, float32 [block, head_size] and [length, head_size].

        Adds the gradients of the tables to their sums. Without a term, the gradient that it alone has is 0.

        Args:
          gradient: gradient of `scores`, [block, length], in the dtype of the products.
          query, key, lanes: see `scores`.
          sums: references of the sums of the tables' gradients, float32 [2 length, units], by term.
        """
        of_query = of_key = 0.0
        if "c2p" in self.tables:
            of_query = self._add("c2p", gradient, query, lanes, sums)
        if "p2c" in self.tables:
            of_key = self._add("p2c", gradient, key, lanes, sums)
        return of_query, of_key

    def _add(self, term, gradient, content, lanes, sums):
        """Adds a table's gradient to its sum; returns the gradient of queries or keys, float32 [tokens, head_size]."""
        tiles = []
        for start in range(0, content.shape[0], LANES):
            tokens = slice(start, start + LANES)
            turned = _reversed(gradient[tokens]) if term == "c2p" else _reversed(gradient[:, tokens], TRANSPOSED)
            of_distances = self._by_distance(turned).astype(content.dtype)  # [128, distances], the last token first
            near = self._near(term, start)
            of_content = product(of_distances, self.tables[term][near, lanes[term]], PLAIN)
            tiles.append(_reversed(of_content.astype(content.dtype)))
            last_first = _reversed(content[tokens]).astype(content.dtype)
            sums[term][near, lanes[term]] += product(of_distances, last_first, OVER_ROWS)
        return jnp.concatenate(tiles, axis=0)

    def _read(self, term, start, lanes):
        return self.tables[term][self._near(term, start), lanes[term]]

    def _near(self, term, start):
        """Returns the slice of the distances of 128 tokens, queries of the block (c2p) or keys (p2c), from `start`."""
        pallas, _ = private_jax.pallas()
        if term == "c2p":
            first, others = self._length - LANES - self._first - start, self._length
        else:
            first, others = self._length - LANES + self._first - start, self._block
        return pallas.ds(pallas.multiple_of(first, LANES), others + LANES)

    def _by_place(self, content, table):
        """Returns scores of 128 tokens, float32 [128, others], from their products with the distances.

        The score of token r and the other token c stands at distance 128 - r + c of the slice of the table.

        Args:
          content: [128, head_size].
          table: [128 + others, head_size].
        """
        return self._roll(product(content, table, TRANSPOSED), 0)[:, LANES:]

    def _by_distance(self, gradient):
        """Returns the gradient of `_by_place`'s product, [128, 128 + others], last token first, from its result's.

        Args:
          gradient: [128, others], last token first.
        """
        zeros = jnp.zeros((LANES, LANES), gradient.dtype)
        return self._roll(jnp.concatenate([gradient, zeros], axis=1), 1)  # row 127 - r goes to distance 128 - r


def chip_has_strides() -> bool:
    """Returns whether the kernel is compiled for a chip, known here, that rolls by strides: TPUs from v5 on."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = device.device_kind if device else jax.devices()[0].device_kind
    return kind.startswith("TPU") and not any(name in kind for name in ("v2", "v3", "v4"))


def rolled_by_stride(x: jax.Array, shift: int) -> jax.Array:
    """Returns x with row r rolled by shift + r places to the right.

    Args:
      x: float32 [128, columns], a multiple of 128 of columns.
      shift: less than 128.
    """
    _, tpu = private_jax.pallas()
    return tpu.roll(x, shift, 1, stride=1, stride_axis=0)


def rolled_by_steps(x: jax.Array, shift: int) -> jax.Array:
    """Returns what `rolled_by_stride` returns, by rolls of many rows at once, which every TPU has.

    Args:
      x: float32 [128, columns], as of `rolled_by_stride`.
      shift: less than 128.
    """
    _, tpu = private_jax.pallas()
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    for step in (1, 2, 4):  # the last three bits of r, within the 8 rows of registers; then the others, for 8 rows
        x = jnp.where(row & step != 0, tpu.roll(x, step, 1), x)
    groups = jnp.split(x, LANES // 8, axis=0)
    return jnp.concatenate([tpu.roll(group, shift + 8 * i, 1) for i, group in enumerate(groups)], axis=0)


def _reversed(x, dimensions=PLAIN):
    """Returns 128 rows, or with TRANSPOSED 128 columns as rows, in reversed order, float32: by a product, exactly."""
    row, column = (jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), axis) for axis in (0, 1))
    permutation = (row + column == LANES - 1).astype(x.dtype)
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return product(permutation, x, dimensions, precision=precision)
