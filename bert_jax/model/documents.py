"""Reads texts that are longer than the encoder's rows: each chunk by itself, then the chunks of a text together."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import make_context
from bert_jax.model.dropout import dropout_seeds
from bert_jax.model.encoder import Layer, seeds_per_layer
from bert_jax.model.layers import Embedding, Keys, Linear, make_norm
from bert_jax.model.spec import Spec

_OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids")


class ChunkReader(nnx.Module):
    """Combines the vectors of a text's chunks, by config.task.chunk_pooling.

    "transformer" runs Transformer layers over the vectors, which learned embeddings of the chunks' places are added to
    (ToBERT: Pappagari et al. 2019, section 3.2); "attention" weighs the chunks (Yang et al. 2016, section 2.2); "mean"
    learns nothing. The layers have the form and the width of the encoder's, and see all chunks.
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        task, size, stddev = spec.task, spec.hidden_size, spec.initializer_range
        assert task is not None
        self.kind, self.spec = task.chunk_pooling, _layers_spec(spec)
        if self.kind == "attention":
            self.dense = Linear(size, size, stddev=stddev, initializer=spec.initializer, rngs=rngs)
            self.score = Linear(size, 1, stddev=stddev, bias=False, initializer=spec.initializer, rngs=rngs)
        if self.kind == "transformer":
            self.position = Embedding(task.max_chunks, size, stddev=stddev, initializer=spec.initializer, rngs=rngs)
            self.layers = nnx.Dict({str(i): Layer(self.spec, rngs=rngs) for i in range(task.chunk_layers)})
            if spec.norm_place == "pre":
                self.norm = make_norm(spec, size)

    def pooled(
        self,
        vectors: jax.Array,
        present: jax.Array,
        dropout_key: jax.Array | None,
        row_numbers: jax.Array | None = None,
    ) -> jax.Array:
        """Returns one vector for each text, float32 [batch, hidden].

        Args:
          vectors: the vectors of its chunks, [batch, chunks, hidden].
          present: which chunks a text has, bool [batch, chunks]; its first at least.
          dropout_key: a jax.random key turns dropout on; None turns it off.
          row_numbers: which row of a larger batch each text is, int32 [batch]; None for a batch by itself.
        """
        states = self._states(vectors, present, dropout_key, row_numbers).astype(jnp.float32)
        if self.kind == "attention":
            scores = self.score(jnp.tanh(self.dense(vectors)))[..., 0].astype(jnp.float32)
            weights = jax.nn.softmax(jnp.where(present, scores, -1e30), axis=1)
        else:
            weights = present.astype(jnp.float32)
            weights = weights / weights.sum(1, keepdims=True)
        return jnp.where(present[:, :, None], states * weights[:, :, None], 0.0).sum(1)

    def context(
        self,
        vectors: jax.Array,
        present: jax.Array,
        dropout_key: jax.Array | None,
        row_numbers: jax.Array | None = None,
    ) -> jax.Array:
        """Returns what each chunk is told of the others, [batch, chunks, hidden]; arguments as of `pooled`.

        It is the chunk's output of the layers, or what `pooled` gives, the same for all chunks of a text.
        """
        if self.kind == "transformer":
            return self._states(vectors, present, dropout_key, row_numbers)
        pooled = self.pooled(vectors, present, dropout_key).astype(vectors.dtype)
        return jnp.broadcast_to(pooled[:, None], vectors.shape)

    def _states(self, vectors, present, dropout_key, row_numbers):
        if self.kind != "transformer":
            return vectors
        states = vectors + self.position.embedding[...][None, : vectors.shape[1]].astype(vectors.dtype)
        context = make_context(self.spec, {"attention_mask": present.astype(jnp.int32)})
        seeds = None
        if dropout_key is not None:
            shape = len(self.layers), seeds_per_layer(self.spec)
            seeds = dropout_seeds(dropout_key, *shape, row_numbers=row_numbers)
        for i in range(len(self.layers)):
            states = self.layers[str(i)](states, context, None if seeds is None else seeds[i])
        return self.norm(states) if self.spec.norm_place == "pre" else states


def read_chunks(
    batch: Mapping,
    length: int,
    dropout_key: jax.Array | None,
    encode: Callable[[dict[str, jax.Array], jax.Array | None], Any],
) -> tuple[Any, jax.Array]:
    """Encodes the chunks of texts, one place after the other, and computes each again in the backward pass.

    Nothing is kept of a chunk's activations but what `encode` returns, so that memory hardly grows with the number of
    chunks. A chunk's dropout depends on its place in the text, and not on how many chunks the batch has room for.

    Args:
      batch: the model's input, [batch, chunks * length] or, for texts of one chunk, [batch, up to length].
      length: tokens of a chunk.
      dropout_key: a jax.random key turns dropout on; None turns it off.
      encode: maps the input of one chunk of each text, [batch, length], and a dropout key to a tree of arrays. A text
        without a chunk at this place has its first token present there.

    Returns:
      (the trees with a leading axis [chunks], which chunks each text has, bool [batch, chunks])
    """
    rows, tokens = batch["input_ids"].shape
    length = min(length, tokens)
    assert tokens % length == 0, f"rows of {tokens} tokens are no chunks of {length}"
    shape = (rows, tokens // length, length)
    arrays = {name: jnp.swapaxes(batch[name].reshape(shape), 0, 1) for name in _OF_TOKENS}
    present = (batch["attention_mask"].reshape(shape) != 0).any(2)
    others = {name: batch[name] for name in ("row_numbers", "skipped") if name in batch}

    def encode_place(place):
        number, chunk = place
        chunk = chunk | others
        if "skipped" in chunk:  # a prompt stands before the text's first chunk alone
            chunk["skipped"] = jnp.where(number == 0, chunk["skipped"], 0)
        mask = chunk["attention_mask"]
        chunk["attention_mask"] = mask.at[:, 0].max((mask.sum(1) == 0).astype(mask.dtype))
        return encode(chunk, None if dropout_key is None else jax.random.fold_in(dropout_key, number))

    places = (jnp.arange(shape[1], dtype=jnp.int32), arrays)
    if shape[1] == 1:
        outputs = jax.tree.map(lambda x: x[None], encode_place(jax.tree.map(lambda x: x[0], places)))
    else:
        outputs = jax.lax.map(jax.checkpoint(encode_place), places)
    return outputs, present


def _layers_spec(spec):
    """Returns the spec of the layers over chunks: the encoder's, but for what is of tokens or of its depth."""
    return dataclasses.replace(
        spec, num_layers=max(1, spec.task.chunk_layers), positions="learned", attention="bidirectional", local_window=0,
        layer_windows=(), global_tokens="none", global_projections=False, rotary_scaling="none", token_dropout=False,
        conv_kernel_size=0, attention_kernel="xla", remat="none", scan_layers=False, task=None,
    )  # fmt: skip
