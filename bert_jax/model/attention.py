"""Multi-head self-attention."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.layers import Linear, dropout, project
from bert_jax.model.spec import Spec


class SelfAttention(nnx.Module):
    """softmax(Q K^T / sqrt(head_size)) V over num_heads heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        size, stddev = spec.hidden_size, spec.initializer_range
        self.query = Linear(size, size, stddev=stddev, rngs=rngs)
        self.key = Linear(size, size, stddev=stddev, rngs=rngs)
        self.value = Linear(size, size, stddev=stddev, rngs=rngs)
        self.output = Linear(size, size, stddev=stddev, rngs=rngs)
        self.num_heads = spec.num_heads
        self.dropout = spec.attention_dropout

    def __call__(self, hidden: jax.Array, mask: jax.Array, seed: jax.Array | None) -> jax.Array:
        """[batch, sequence, hidden], before dropout and residual.

        Args:
          hidden: [batch, sequence, hidden].
          mask: bool, broadcasts to [batch, heads, query, key]; True where the query may see the key.
          seed: of the dropout of the attention weights; None for none.
        """
        query, value = self._heads(self.query(hidden)), self._heads(self.value(hidden))
        # The key's bias adds the same to all scores of a query, which the softmax takes away again: left out, its
        # gradient is zero and not rounding.
        key = self._heads(project(hidden, self.key.kernel[...].astype(hidden.dtype)))
        scores = jnp.einsum("bnqd,bnkd->bnqk", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(jnp.where(mask, scores / math.sqrt(query.shape[-1]), -1e30), axis=-1)
        weights = dropout(weights, self.dropout, seed).astype(value.dtype)
        mixed = jnp.einsum("bnqk,bnkd->bnqd", weights, value)
        return self.output(mixed.transpose(0, 2, 1, 3).reshape(hidden.shape))

    def _heads(self, x):
        """[batch, sequence, hidden] -> [batch, heads, sequence, head_size]."""
        batch, sequence, hidden = x.shape
        return x.reshape(batch, sequence, self.num_heads, hidden // self.num_heads).transpose(0, 2, 1, 3)


def attention_mask(spec: Spec, batch: Mapping) -> jax.Array:
    """Which keys a query may see, bool [batch, 1, query or 1, key].

    Args:
      spec: the model's.
      batch: attention_mask [batch, sequence], and sequence_ids of the same shape where rows are packed: a token sees
        its own sequence alone.
    """
    mask = (batch["attention_mask"] != 0)[:, None, None, :]
    if "sequence_ids" in batch:
        of_query, of_key = batch["sequence_ids"][:, None, :, None], batch["sequence_ids"][:, None, None, :]
        mask = mask & (of_query == of_key)
    if spec.attention == "causal":
        sequence = batch["attention_mask"].shape[1]
        mask = mask & jnp.tril(jnp.ones((1, 1, sequence, sequence), bool))
    return mask
