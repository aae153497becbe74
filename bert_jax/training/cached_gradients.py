"""Computes gradients of a loss on the vectors of a whole batch, with one part of the batch in memory at a time.

The vectors are computed part by part without keeping activations; the loss gives their gradients; then each part is
computed again and its gradient taken (Gao et al. 2021, "Scaling deep contrastive learning batch size", section 3.2).
Dropout is a function of an example's number in the whole batch, so that both passes, and any number of parts, drop the
same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def value_and_gradient(
    encode: Callable[[Any, Mapping, jax.Array], Any],
    loss_of: Callable[[Any, Any], tuple[jax.Array, Any]],
    params: Any,
    batch: Mapping[str, jax.Array],
    part_size: int,
) -> tuple[tuple[jax.Array, Any], Any]:
    """Returns ((loss, what else loss_of returns), gradient by params) of loss_of(params, encode(params, batch)).

    A part takes every n-th example, as many from each device's share of the batch, so that none has to move.

    Args:
      encode: maps (params, examples of the batch, their numbers in it int32 [examples]) to a tree of arrays [examples,
        ...].
      loss_of: maps (params, the encoded whole batch) to (loss, anything); parameters of the loss itself, such as a
        temperature, are in params too.
      params: a tree of parameters.
      batch: arrays [batch, ...].
      part_size: examples in memory at a time; divides the batch. 0 for the whole batch in one pass.

    Raises:
      ValueError: `part_size` does not divide the batch.
    """
    total = len(next(iter(batch.values())))
    numbers = jnp.arange(total, dtype=jnp.int32)
    if part_size in (0, total):
        return jax.value_and_grad(lambda params: loss_of(params, encode(params, batch, numbers)), has_aux=True)(params)
    if total % part_size:
        raise ValueError(f"found {total} examples; expected a multiple of {part_size}")

    def parted(leaf):  # [batch, ...] -> [parts, part_size, ...]; an array may be empty
        return leaf.reshape(part_size, total // part_size, *leaf.shape[1:]).swapaxes(0, 1)

    def joined(leaf):  # [parts, part_size, ...] -> [batch, ...]
        return leaf.swapaxes(0, 1).reshape(total, *leaf.shape[2:])

    parts = jax.tree.map(parted, (dict(batch), numbers))
    encoded = jax.tree.map(joined, jax.lax.map(lambda part: encode(params, *part), parts))
    gradient_of = jax.value_and_grad(loss_of, argnums=(0, 1), has_aux=True)
    (loss, extra), (loss_gradient, gradients) = gradient_of(params, encoded)
    gradients = jax.tree.map(parted, gradients)

    def add(sums, part):
        examples, part_gradients = part
        _, pull_back = jax.vjp(lambda params: encode(params, *examples), params)
        return jax.tree.map(jnp.add, sums, pull_back(part_gradients)[0]), None

    return (loss, extra), jax.lax.scan(add, loss_gradient, (parts, gradients))[0]
