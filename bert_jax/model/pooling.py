"""One vector from the hidden states of a text."""

import jax
import jax.numpy as jnp

POOLING = ("cls", "mean", "max", "attention", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def pool(hidden: jax.Array, present: jax.Array, kind: str, scores: jax.Array | None = None) -> jax.Array:
    """[batch, sequence, hidden] to [batch, hidden], over the tokens that are present.

    Args:
      hidden: of one layer.
      present: attention_mask [batch, sequence].
      kind: "cls" (the first token that is present), "mean", "max", "attention" (a mean weighted by the softmax of
        `scores`), or as sentence-transformers names them: "mean_sqrt_len_tokens" (the sum over the square root of
        the count), "weightedmean" (weights 1, 2, 3, ... by position) or "lasttoken".
      scores: [batch, sequence], for "attention".
    """
    mask = present != 0
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


def _at(hidden, places):
    return jnp.take_along_axis(hidden, places[:, None, None], axis=1)[:, 0]
