"""Gradients of a loss on the vectors of a whole batch, with one part of the batch in memory at a time.

The vectors are computed part by part without keeping activations; the loss gives their gradients; then each part is
computed again and its gradient taken (Gao et al. 2021, "Scaling deep contrastive learning batch size", section 3.2).
Dropout is a function of a row's place in the whole batch, so that both passes, and any number of parts, drop the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def value_and_gradient(
    encode: Callable[[Any, Mapping], jax.Array],
    loss_of: Callable[[Any, jax.Array], tuple[jax.Array, Any]],
    params: Any,
    batch: Mapping[str, jax.Array],
    rows: int,
) -> tuple[tuple[jax.Array, Any], Any]:
    """Returns ((loss, what else loss_of returns), gradient by params), as of loss_of(params, encode(params, batch)).

    Args:
      encode: maps (params, rows of the batch with `first_row`) to vectors [rows, ...].
      loss_of: maps (params, vectors of all rows [batch, ...]) to (loss, anything); parameters of the loss itself, such
        as a temperature, are in params too.
      params: a tree of parameters.
      batch: arrays [batch, ...].
      rows: rows in memory at a time; divides the batch. 0 for the whole batch in one pass.

    Raises:
      ValueError: `rows` does not divide the batch.
    """
    total = len(next(iter(batch.values())))
    if rows in (0, total):

        def whole(params):
            return loss_of(params, encode(params, batch | {"first_row": jnp.zeros((), jnp.int32)}))

        return jax.value_and_grad(whole, has_aux=True)(params)
    if total % rows:
        raise ValueError(f"found {total} rows; expected a multiple of {rows}")
    parts = jax.tree.map(lambda x: x.reshape(-1, rows, *x.shape[1:]), dict(batch))
    firsts = jnp.arange(0, total, rows, dtype=jnp.int32)

    def vectors_of(params, part, first):
        return encode(params, part | {"first_row": first})

    vectors = jax.lax.map(lambda part: vectors_of(params, *part), (parts, firsts))
    joined = vectors.reshape(total, *vectors.shape[2:])
    (loss, rest), (own, gradient) = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)(params, joined)

    def add(total_gradient, part):
        part_batch, first, part_gradient = part
        _, pull_back = jax.vjp(lambda params: vectors_of(params, part_batch, first), params)
        return jax.tree.map(jnp.add, total_gradient, pull_back(part_gradient)[0]), None

    gradients, _ = jax.lax.scan(add, own, (parts, firsts, gradient.reshape(vectors.shape)))
    return (loss, rest), gradients
