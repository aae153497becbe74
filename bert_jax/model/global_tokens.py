"""Computes attention of global tokens, which see all others and are seen by all (Beltagy et al. 2020, section 3.1).

Which tokens they are is an array of positions, int32 [batch, k], so that a row can hold k of them at most and programs
have static shapes; -1 stands for none.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax.model.dropout import attention_index, dropout, row_numbers
from bert_jax.model.kernels import AttentionMask
from bert_jax.model.spec import Spec


def positions_of(spec: Spec, batch: Mapping) -> jax.Array | None:
    """Returns where the global tokens of a batch stand, int32 [batch, k], -1 for none; None for a model without any.

    Args:
      spec: the model's spec.
      batch: the model's input. Where it has no global_positions, int32 [batch, k], the model's task chooses.
    """
    if spec.global_tokens == "none":
        return None
    present, positions = batch["attention_mask"], batch.get("global_positions")
    if positions is None:
        if not spec.first_is_global:
            return None
        if "cls_positions" not in batch:
            positions = jnp.zeros((present.shape[0], 1), jnp.int32)
        else:  # the rows are packed, and unused entries name a token of another sequence
            positions = batch["cls_positions"]
            numbers = jnp.arange(1, positions.shape[1] + 1, dtype=jnp.int32)[None]
            positions = jnp.where(tokens_at(batch["sequence_ids"], positions) == numbers, positions, -1)
    return jnp.where((positions >= 0) & (tokens_at(present, positions) != 0), positions, -1)


def tokens_at(x: jax.Array, positions: jax.Array, axis: int = 1) -> jax.Array:
    """Returns the part of an array at some positions of its sequences; that of the first token for a position of -1.

    Args:
      x: [batch, ..., sequence, ...].
      positions: int32 [batch, k].
      axis: the axis of the sequence.

    Returns:
      [batch, ..., k, ...].
    """
    shape = [positions.shape[0], *[1] * (x.ndim - 1)]
    shape[axis] = positions.shape[1]
    return jnp.take_along_axis(x, jnp.maximum(positions, 0).reshape(shape), axis=axis)


def placed(x: jax.Array, rows: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns x [batch, heads, sequence, size] with the rows of some positions replaced.

    Args:
      x: the array.
      rows: [batch, heads, k, size].
      positions: int32 [batch, k], -1 for a row that is left out.
    """
    places = jnp.where(positions < 0, x.shape[2], positions)  # behind the end, where nothing is written
    return jax.vmap(lambda x, rows, places: x.at[:, places].set(rows, mode="drop"))(x, rows.astype(x.dtype), places)


def global_weights(scores: jax.Array, mask: AttentionMask, bias: jax.Array | None = None) -> jax.Array:
    """Returns attention weights of global tokens to all tokens of their sequences, float32 [batch, heads, k, sequence].

    Args:
      scores: products of the queries of global tokens with all keys, scaled, float32 [batch, heads, k, sequence].
      mask: which tokens attend to which; its window counts for no global token.
      bias: float32 [1, heads, sequence, sequence], added to the scaled scores of all queries and keys.
    """
    positions, places = mask.global_positions, jnp.arange(scores.shape[3], dtype=jnp.int32)
    assert positions is not None
    if bias is not None:
        scores = scores + tokens_at(jnp.broadcast_to(bias, (positions.shape[0], *bias.shape[1:])), positions, 2)
    allowed = mask.present[:, None, None, :]
    if mask.sequence_ids is not None:
        own = tokens_at(mask.sequence_ids, positions)
        allowed = allowed & (own[:, None, :, None] == mask.sequence_ids[:, None, None, :])
    if mask.causal:
        allowed = allowed & (places[None, None, None] <= positions[:, None, :, None])
    return jax.nn.softmax(jnp.where(allowed, scores, -1e30), axis=-1)


def drop_weights(weights: jax.Array, mask: AttentionMask, rate: float, seed: jax.Array | None) -> jax.Array:
    """Returns the weights of global tokens after dropout, with the bits of their places in the row.

    Args:
      weights: [batch, heads, k, sequence].
      mask: names the positions of the global tokens.
      rate: dropout rate of the attention weights.
      seed: dropout seed, uint32 [2]; None for no dropout.
    """
    if seed is None:
        return weights
    assert mask.global_positions is not None
    batch, heads, _, sequence = weights.shape
    index = attention_index(
        row_numbers(seed, batch).reshape(-1, 1, 1, 1),
        jnp.arange(heads, dtype=jnp.int32).reshape(1, -1, 1, 1),
        mask.global_positions[:, None, :, None],
        jnp.arange(sequence, dtype=jnp.int32).reshape(1, 1, 1, -1),
    )
    return dropout(weights, rate, seed, index)
