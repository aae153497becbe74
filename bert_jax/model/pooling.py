"""One vector from the hidden states of a text."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

POOLING = ("cls", "mean", "max", "attention", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def pool(
    hidden: jax.Array, present: jax.Array, kind: str, scores: jax.Array | None = None, batch: Mapping | None = None
) -> jax.Array:
    """[batch, sequence, hidden] to [batch, hidden], over the tokens present; of packed rows, [batch, k, hidden].

    Args:
      hidden: of one layer.
      present: attention_mask [batch, sequence].
      kind: "cls" (the first token that is present), "mean", "max", "attention" (a mean weighted by the softmax of
        `scores`), or as sentence-transformers names them: "mean_sqrt_len_tokens" (the sum over the square root of
        the count), "weightedmean" (weights 1, 2, 3, ... by position) or "lasttoken".
      scores: [batch, sequence], for "attention".
      batch: the model's input. Its rows are packed where it has sequence_ids; what is pooled of a place without a
        sequence, or without a token that is present, is finite and of no meaning.
    """
    mask = present != 0
    if batch is not None and "sequence_ids" in batch:
        return _pool_sequences(hidden, mask, kind, scores, batch)
    there = mask[:, :, None]
    wide = hidden.astype(jnp.float32)
    if kind == "cls":
        return _at(hidden, jnp.argmax(mask, axis=1))
    if kind == "lasttoken":
        return _at(hidden, mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1))
    if kind == "max":
        pooled = jnp.where(there, wide, -jnp.inf).max(1)
    elif kind == "attention":
        weights = jax.nn.softmax(jnp.where(there, scores.astype(jnp.float32)[:, :, None], -1e30), axis=1)
        pooled = (wide * weights).sum(1)
    else:
        weights = there.astype(jnp.float32)
        if kind == "weightedmean":
            weights = weights * jnp.arange(1.0, mask.shape[1] + 1, dtype=jnp.float32)[None, :, None]
        total = jnp.maximum(weights.sum(1), 1e-9)
        pooled = jnp.where(there, wide * weights, 0.0).sum(1) / (
            jnp.sqrt(total) if kind == "mean_sqrt_len_tokens" else total
        )
    return pooled.astype(hidden.dtype)


def _pool_sequences(hidden, mask, kind, scores, batch):
    """The same of each sequence of packed rows, [batch, k, hidden]; nothing of [batch, k, sequence, hidden] is made."""
    numbers = jnp.arange(1, batch["cls_positions"].shape[1] + 1, dtype=jnp.int32)
    members = (batch["sequence_ids"][:, None, :] == numbers[None, :, None]) & mask[:, None, :]
    wide = hidden.astype(jnp.float32)
    if kind == "cls":
        return jnp.take_along_axis(hidden, jnp.argmax(members, axis=2)[:, :, None], axis=1)
    if kind == "lasttoken":
        last = mask.shape[1] - 1 - jnp.argmax(members[:, :, ::-1], axis=2)
        return jnp.take_along_axis(hidden, last[:, :, None], axis=1)
    if kind == "max":
        pooled = _max_of_sequences(wide, jnp.where(mask, batch["sequence_ids"], 0), members)
    elif kind == "attention":
        weights = jax.nn.softmax(jnp.where(members, scores.astype(jnp.float32)[:, None, :], -1e30), axis=-1)
        pooled = _sums(weights, wide)
    else:
        weights = members.astype(jnp.float32)
        if kind == "weightedmean":
            weights = weights * (batch["position_ids"] + 1).astype(jnp.float32)[:, None, :]
        total = jnp.maximum(weights.sum(2, keepdims=True), 1e-9)
        pooled = _sums(weights, wide) / (jnp.sqrt(total) if kind == "mean_sqrt_len_tokens" else total)
    return pooled.astype(hidden.dtype)


def _max_of_sequences(wide, owners, members):
    """The largest of each sequence, whose gradient is shared by all that are as large, as that of jnp.max is."""
    of_row = functools.partial(jax.ops.segment_max, num_segments=members.shape[1] + 1)
    largest = jax.vmap(of_row)(jax.lax.stop_gradient(wide), owners)
    # A compiler may compute `wide` twice, fused with one use and another: the last bits need not agree.
    least = largest - 1e-6 * (1.0 + jnp.abs(largest))
    is_largest = (wide >= jnp.take_along_axis(least, owners[:, :, None], axis=1)).astype(jnp.float32)
    members = members.astype(jnp.float32)
    shared = _sums(members, wide * is_largest) / jnp.maximum(_sums(members, is_largest), 1.0)
    value = jnp.where(jnp.isfinite(largest[:, 1:]), largest[:, 1:], 0.0)
    return shared + jax.lax.stop_gradient(value - shared)  # the value is the maximum itself


def _sums(weights, wide):
    """Weights [batch, k, sequence] and [batch, sequence, hidden] to [batch, k, hidden], in float32 throughout."""
    return jnp.einsum("bks,bsh->bkh", weights, wide, precision=jax.lax.Precision.HIGHEST)


def _at(hidden, places):
    return jnp.take_along_axis(hidden, places[:, None, None], axis=1)[:, 0]
