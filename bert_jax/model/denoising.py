"""Rebuilds a text from its vector alone, which teaches an encoder to put the text into the vector (TSDAE).

Wang, Reimers & Gurevych 2021, "TSDAE: Using Transformer-based Sequential Denoising Auto-Encoder for Unsupervised
Sentence Embedding Learning". The decoder's layers are the encoder's own, as in sentence-transformers'
DenoisingAutoEncoderLoss with tied weights.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.dropout import dropout, dropout_seeds
from bert_jax.model.encoder import Encoder, seeds_per_layer
from bert_jax.model.layers import Keys, Linear, make_norm
from bert_jax.model.spec import Spec


class VectorAttention(nnx.Module):
    """Attends to a text's vector; the weight of a single key is 1, so that every token reads its value."""

    def __init__(self, spec: Spec, *, rngs: Keys):
        assert spec.task is not None
        size, stddev = spec.hidden_size, spec.initializer_range
        self.value = Linear(spec.task.num_labels, size, stddev=stddev, initializer=spec.initializer, rngs=rngs)
        self.output = Linear(size, size, stddev=stddev, initializer=spec.initializer, rngs=rngs)
        if spec.norm_place == "post":
            self.norm = make_norm(spec, size)
        self.post_norm, self.dropout = spec.norm_place == "post", spec.hidden_dropout

    def __call__(self, stream: jax.Array, vectors: jax.Array, seed: jax.Array | None) -> jax.Array:
        """Returns the residual stream [batch, sequence, hidden] with what it reads from vectors [batch, size]."""
        read = self.output(self.value(vectors.astype(stream.dtype)))[:, None]
        stream = stream + dropout(jnp.broadcast_to(read, stream.shape), self.dropout, seed)
        return self.norm(stream) if self.post_norm else stream


class Decoder(nnx.Module):
    """Holds what the encoder's layers lack to be a decoder: attention to a vector, between attention and MLP."""

    def __init__(self, spec: Spec, *, rngs: Keys):
        self.layers = nnx.Dict({str(i): VectorAttention(spec, rngs=rngs) for i in range(spec.num_layers)})
        self.spec = spec

    def __call__(
        self, encoder: Encoder, batch: Mapping, vectors: jax.Array, dropout_key: jax.Array | None
    ) -> jax.Array:
        """Returns hidden states that know a text's vector and its tokens up to each, [batch, sequence, hidden].

        Args:
          encoder: the model's encoder.
          batch: the texts to rebuild: input_ids, attention_mask, token_type_ids int32 [batch, sequence], and perhaps
            row_numbers.
          vectors: [batch, size].
          dropout_key: None for no dropout.
        """
        spec, embedding_seed, layer_seeds, own_seeds = self.spec, None, None, None
        if dropout_key is not None:
            keys, rows = jax.random.split(dropout_key, 3), batch.get("row_numbers")
            embedding_seed = dropout_seeds(keys[0], row_numbers=rows)
            layer_seeds = dropout_seeds(keys[1], spec.num_layers, seeds_per_layer(spec), row_numbers=rows)
            own_seeds = dropout_seeds(keys[2], spec.num_layers, row_numbers=rows)
        hidden, context = encoder.embeddings(batch, embedding_seed), encoder.context(batch)
        context = dataclasses.replace(context, mask=dataclasses.replace(context.mask, causal=True))
        for i, (layer, window) in enumerate(encoder.modules()):
            own, own_seed = self.layers[str(i)], None if own_seeds is None else own_seeds[i]

            def between(stream, own=own, own_seed=own_seed):
                return own(stream, vectors, own_seed)

            seeds = None if layer_seeds is None else layer_seeds[i]
            hidden = layer(hidden, context, seeds, window, between=between)
        return encoder.norm(hidden) if spec.norm_place == "pre" else hidden


def with_deletions(batch: Mapping, share: float, key: jax.Array, padding: int) -> dict[str, jax.Array]:
    """Returns a batch with some tokens of each text deleted, the others moved together; none loses all of its tokens.

    Which tokens are deleted is a function of the key, the text's number and the token's place. The first and the last
    token, which are special, stay.

    Args:
      batch: input_ids, attention_mask, token_type_ids int32 [batch, sequence], padded at the end, and row_numbers int32
        [batch].
      share: share of the tokens that are deleted (0.6 in the paper, section 3).
      key: a jax.random key.
      padding: id of the padding.
    """
    ids, present = batch["input_ids"], batch["attention_mask"] != 0
    places = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
    seed = dropout_seeds(key, row_numbers=batch["row_numbers"])
    drawn = dropout(jnp.ones(ids.shape), share, seed) > 0
    last = present.sum(1, keepdims=True) - 1
    inner = present & (places > 0) & (places < last)
    drawn = drawn | (~(drawn & inner).any(1, keepdims=True) & (places == 1))
    kept = present & (drawn | ~inner)
    order = jnp.argsort(~kept, axis=1, stable=True)
    present = places < kept.sum(1, keepdims=True)
    moved = jnp.where(present, jnp.take_along_axis(ids, order, axis=1), padding)
    types = jnp.where(present, jnp.take_along_axis(batch["token_type_ids"], order, axis=1), 0)
    return {**batch, "input_ids": moved, "attention_mask": present.astype(jnp.int32), "token_type_ids": types}
