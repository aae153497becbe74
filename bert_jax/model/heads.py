"""What pre-training reads from the hidden states: masked tokens, and whether B follows A."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.encoder import Encoder
from bert_jax.model.layers import ACTIVATIONS, LayerNorm, Linear, add_bias
from bert_jax.model.spec import Spec


class LanguageModelHead(nnx.Module):
    """Transform, norm, and the word embedding transposed as decoder, with a bias of its own."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.transform = Linear(spec.hidden_size, spec.hidden_size, stddev=spec.initializer_range, rngs=rngs)
        self.norm = LayerNorm(spec.hidden_size, epsilon=spec.norm_epsilon)
        self.bias = nnx.Param(jnp.zeros((spec.vocab_size,)))
        self.activation = spec.activation

    def __call__(self, hidden: jax.Array, embedding: jax.Array) -> jax.Array:
        """Float32 logits [batch, positions, vocabulary] of hidden [batch, positions, hidden]."""
        x = self.norm(ACTIVATIONS[self.activation](self.transform(hidden)))
        logits = jnp.einsum("bph,vh->bpv", x, embedding.astype(x.dtype), preferred_element_type=jnp.float32)
        return add_bias(logits, self.bias[...])


class Pooler(nnx.Module):
    """tanh of a linear map of the first token's hidden state."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.dense = Linear(spec.hidden_size, spec.hidden_size, stddev=spec.initializer_range, rngs=rngs)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """[batch, sequence, hidden] to [batch, hidden]."""
        return jnp.tanh(self.dense(hidden[:, 0]))


class PreTraining(nnx.Module):
    """The encoder with the heads of pre-training (BERT section 3.1)."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.encoder = Encoder(spec, rngs=rngs)
        if spec.pooler:
            self.pooler = Pooler(spec, rngs=rngs)
        self.mlm = LanguageModelHead(spec, rngs=rngs)
        if spec.next_sentence:
            self.next_sentence = Linear(spec.hidden_size, 2, stddev=spec.initializer_range, rngs=rngs)
        self.spec = spec

    def __call__(self, batch: dict, dropout_key: jax.Array | None) -> dict[str, jax.Array]:
        hidden = self.encoder(batch, dropout_key)
        read = hidden
        if "masked_positions" in batch:
            read = jnp.take_along_axis(hidden, batch["masked_positions"][:, :, None], axis=1)
        outputs = {"hidden": hidden, "mlm_logits": self.mlm(read, self.encoder.embeddings.word.embedding[...])}
        if self.spec.pooler:
            outputs["pooled"] = self.pooler(hidden)
        if self.spec.next_sentence:
            outputs["next_sentence_logits"] = self.next_sentence(outputs["pooled"]).astype(jnp.float32)
        return outputs
