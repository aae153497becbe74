"""Pools the hidden states of a text into one vector, or the scores of its tokens into a sparse one."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bert_jax.config.finetuning_keys import TOKEN_POOLING

POOLING = TOKEN_POOLING
SPARSE_ACTIVATIONS = ("relu", "log1p_relu")


def pool(
    hidden: jax.Array, present: jax.Array, kind: str, scores: jax.Array | None = None, batch: Mapping | None = None
) -> jax.Array:
    """Pools hidden states over the tokens that are present: [batch, hidden], or of packed rows [batch, k, hidden].

    Args:
      hidden: [batch, sequence, hidden].
      present: attention_mask, int or bool [batch, sequence].
      kind: one of POOLING: "cls" (the first token that is present), "mean", "max", "attention" (mean weighted by the
        softmax of `scores`), or as sentence-transformers names them: "mean_sqrt_len_tokens" (sum over the square root
        of the count), "weightedmean" (weights 1, 2, 3, ... by position) or "lasttoken".
      scores: [batch, sequence], for "attention".
      batch: the model's input. With sequence_ids its rows are packed; entries without a sequence or without a token
        that is present are then finite and undefined.

    Returns:
      The pooled vectors, in the dtype of `hidden`.
    """
    mask = present != 0
    if batch is not None and "sequence_ids" in batch:
        return _pool_sequences(hidden, mask, kind, scores, batch)
    is_token = mask[:, :, None]
    wide = hidden.astype(jnp.float32)
    if kind == "cls":
        return _vectors_at(hidden, jnp.argmax(mask, axis=1))
    if kind == "lasttoken":
        return _vectors_at(hidden, mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1))
    if kind == "max":
        pooled = jnp.where(is_token, wide, -jnp.inf).max(1)
    elif kind == "attention":
        assert scores is not None
        weights = jax.nn.softmax(jnp.where(is_token, scores.astype(jnp.float32)[:, :, None], -1e30), axis=1)
        pooled = (wide * weights).sum(1)
    else:
        weights = is_token.astype(jnp.float32)
        if kind == "weightedmean":
            weights = weights * jnp.arange(1.0, mask.shape[1] + 1, dtype=jnp.float32)[None, :, None]
        total = jnp.maximum(weights.sum(1), 1e-9)
        pooled = jnp.where(is_token, wide * weights, 0.0).sum(1) / (
            jnp.sqrt(total) if kind == "mean_sqrt_len_tokens" else total
        )
    return pooled.astype(hidden.dtype)


def pool_sparse(logits: jax.Array, present: jax.Array, kind: str, activation: str = "relu") -> jax.Array:
    """Returns the weight of each token of the vocabulary in a text, float32 [batch, vocab], most of them 0.

    It is log(1 + relu(logit)), the largest over the text's tokens (SPLADE v2: Formal et al. 2021, equation 6) or their
    sum (SPLADE: Formal et al. 2021, equation 1).

    Args:
      logits: scores of the masked-language-model head, [batch, sequence, vocab].
      present: attention_mask, int or bool [batch, sequence].
      kind: "max" or "sum".
      activation: one of SPARSE_ACTIVATIONS; "log1p_relu" takes the logarithm twice (Shen et al. 2025).
    """
    positive = jax.nn.relu(logits.astype(jnp.float32))
    weights = jnp.log1p(jnp.log1p(positive) if activation == "log1p_relu" else positive)
    weights = jnp.where((present != 0)[:, :, None], weights, 0.0)
    return weights.max(1) if kind == "max" else weights.sum(1)


def _pool_sequences(hidden, mask, kind, scores, batch):
    """Pools each sequence of packed rows, [batch, k, hidden], without an array of [batch, k, sequence, hidden]."""
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
    """Returns the maximum over each sequence; equal maxima share the gradient, as in jnp.max."""
    row_maxima = functools.partial(jax.ops.segment_max, num_segments=members.shape[1] + 1)
    largest = jax.vmap(row_maxima)(jax.lax.stop_gradient(wide), owners)
    # A compiler may compute `wide` twice, fused with its two uses, whose last bits need not agree.
    thresholds = largest - 1e-6 * (1.0 + jnp.abs(largest))
    is_largest = (wide >= jnp.take_along_axis(thresholds, owners[:, :, None], axis=1)).astype(jnp.float32)
    members = members.astype(jnp.float32)
    shared = _sums(members, wide * is_largest) / jnp.maximum(_sums(members, is_largest), 1.0)
    value = jnp.where(jnp.isfinite(largest[:, 1:]), largest[:, 1:], 0.0)
    return shared + jax.lax.stop_gradient(value - shared)  # exactly the maximum, with the gradient of `shared`


def _sums(weights, wide):
    """Multiplies [batch, k, sequence] by [batch, sequence, hidden] to [batch, k, hidden], in full float32."""
    return jnp.einsum("bks,bsh->bkh", weights, wide, precision=jax.lax.Precision.HIGHEST)


def _vectors_at(hidden, positions):
    return jnp.take_along_axis(hidden, positions[:, None, None], axis=1)[:, 0]
