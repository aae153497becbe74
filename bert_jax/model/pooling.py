"""One vector from the hidden states of a text."""

import jax
import jax.numpy as jnp

POOLING = ("cls", "mean", "max", "attention")


def pool(hidden: jax.Array, present: jax.Array, kind: str, scores: jax.Array | None = None) -> jax.Array:
    """[batch, sequence, hidden] to [batch, hidden], over the tokens that are present.

    Args:
      hidden: of one layer.
      present: attention_mask [batch, sequence].
      kind: "cls" (the first token), "mean", "max", or "attention" (a mean weighted by the softmax of `scores`).
      scores: [batch, sequence], for "attention".
    """
    if kind == "cls":
        return hidden[:, 0]
    there = (present != 0)[:, :, None]
    wide = hidden.astype(jnp.float32)
    if kind == "mean":
        count = jnp.maximum(there.sum(1), 1).astype(jnp.float32)
        pooled = jnp.where(there, wide, 0.0).sum(1) / count
    elif kind == "max":
        pooled = jnp.where(there, wide, -jnp.inf).max(1)
    else:
        weights = jax.nn.softmax(jnp.where(there, scores.astype(jnp.float32)[:, :, None], -1e30), axis=1)
        pooled = (wide * weights).sum(1)
    return pooled.astype(hidden.dtype)
