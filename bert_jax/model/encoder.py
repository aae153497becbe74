"""Embeddings and the stack of layers: token ids to hidden states."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import SelfAttention, attention_mask
from bert_jax.model.layers import ACTIVATIONS, Embedding, LayerNorm, Linear, dropout, dropout_seeds
from bert_jax.model.spec import Spec


class Embeddings(nnx.Module):
    """Sum of word, position and segment embeddings, normed (BERT section 3, figure 2)."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        size, stddev = spec.hidden_size, spec.initializer_range
        self.word = Embedding(spec.vocab_size, size, stddev=stddev, rngs=rngs)
        self.position = Embedding(spec.max_positions + spec.position_offset, size, stddev=stddev, rngs=rngs)
        self.token_type = Embedding(spec.type_vocab_size, size, stddev=stddev, rngs=rngs)
        self.norm = LayerNorm(size, epsilon=spec.norm_epsilon)
        self.spec = spec

    def __call__(self, batch: dict, seed: jax.Array | None) -> jax.Array:
        """[batch, sequence] ids, segments and attention_mask to [batch, sequence, hidden]."""
        word = self.word(batch["input_ids"])
        # The padding's own embedding learns nothing, also where a loss reads every position.
        word = jnp.where(batch["attention_mask"][:, :, None] != 0, word, jax.lax.stop_gradient(word))
        hidden = self.norm(word + self._positions(batch) + self.token_type(batch["token_type_ids"]))
        return dropout(hidden.astype(self.spec.dtype), self.spec.hidden_dropout, seed)

    def _positions(self, batch):
        """Position embeddings, [1 or batch, sequence, hidden].

        Packed rows say each token's position in its own sequence. Behind an offset, as in fairseq: a padding token,
        wherever it stands, has the row before the first position, and is not counted, which is done here for packed
        rows too.
        """
        input_ids, first = batch["input_ids"], self.spec.position_offset
        places = batch.get("position_ids")
        if not first and places is None:
            return self.position.embedding[...][None, : input_ids.shape[1]]
        if not first:
            return self.position(places)
        counted = (input_ids != first - 1).astype(jnp.int32)
        if "sequence_ids" in batch:
            places = _places_in_sequences(counted, batch["sequence_ids"])
        elif places is None:
            places = jnp.cumsum(counted, axis=1) - 1
        rows = self.position((places + 1) * counted + (first - 1))
        return jnp.where(counted[:, :, None] != 0, rows, jax.lax.stop_gradient(rows))


def _places_in_sequences(counted, sequence_ids):
    """How many counted tokens of its own sequence stand before each counted one; int32 [batch, sequence]."""
    so_far = jnp.cumsum(counted, axis=1)
    begins = sequence_ids != jnp.roll(sequence_ids, 1, axis=1).at[:, 0].set(-1)
    before = jax.lax.cummax(jnp.where(begins, so_far - counted, 0), axis=1)  # of the sequence; it never falls
    return so_far - before - 1


class MLP(nnx.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        stddev = spec.initializer_range
        self.up = Linear(spec.hidden_size, spec.intermediate_size, stddev=stddev, rngs=rngs)
        self.down = Linear(spec.intermediate_size, spec.hidden_size, stddev=stddev, rngs=rngs)
        self.activation = spec.activation

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return self.down(ACTIVATIONS[self.activation](self.up(hidden)))


class Layer(nnx.Module):
    """Attention and MLP, each with dropout, residual and a norm after them."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.attention = SelfAttention(spec, rngs=rngs)
        self.attention_norm = LayerNorm(spec.hidden_size, epsilon=spec.norm_epsilon)
        self.mlp = MLP(spec, rngs=rngs)
        self.mlp_norm = LayerNorm(spec.hidden_size, epsilon=spec.norm_epsilon)
        self.dropout = spec.hidden_dropout

    def __call__(self, hidden: jax.Array, mask: jax.Array, seeds: jax.Array | None) -> jax.Array:
        """[batch, sequence, hidden] to the same; `seeds` uint32 [3, 2] or None for no dropout."""
        weights_seed, attention_seed, mlp_seed = (None, None, None) if seeds is None else seeds
        mixed = dropout(self.attention(hidden, mask, weights_seed), self.dropout, attention_seed)
        hidden = self.attention_norm(hidden + mixed)
        return self.mlp_norm(hidden + dropout(self.mlp(hidden), self.dropout, mlp_seed))


class Encoder(nnx.Module):
    """Embeddings and layers."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(spec, rngs=rngs)
        self.layers = nnx.List([Layer(spec, rngs=rngs) for _ in range(spec.num_layers)])
        self.spec = spec

    def __call__(self, batch: dict, dropout_key: jax.Array | None, every: bool = False) -> jax.Array:
        """Hidden states of the last layer, [batch, sequence, hidden], in the compute dtype.

        With `every`, those of the embeddings and of each layer, [1 + layers, batch, sequence, hidden].
        """
        embedding_seed = layer_seeds = None
        if dropout_key is not None:
            embedding_key, layer_key = jax.random.split(dropout_key)
            embedding_seed = dropout_seeds(embedding_key)
            layer_seeds = dropout_seeds(layer_key, len(self.layers), 3)
        hidden = self.embeddings(batch, embedding_seed)
        mask = attention_mask(self.spec, batch)
        run = scanned if self.spec.scan_layers else unrolled
        last, of_layers = run(self.layers, hidden, mask, layer_seeds, every)
        return jnp.concatenate([hidden[None], of_layers]) if every else last


def unrolled(layers, hidden: jax.Array, mask: jax.Array, seeds: jax.Array | None, every: bool = False):
    """The layers one after the other: the reference. Returns the last one's output and, with `every`, all of them."""
    outputs = []
    for i, layer in enumerate(layers):
        hidden = layer(hidden, mask, None if seeds is None else seeds[i])
        outputs.append(hidden)
    return hidden, jnp.stack(outputs) if every else None


def scanned(layers, hidden: jax.Array, mask: jax.Array, seeds: jax.Array | None, every: bool = False):
    """Equal layers as one loop over their stacked parameters: compiles once for all of them."""
    graphs, parameters = zip(*(nnx.split(layer) for layer in layers), strict=True)
    # Kernels are cast before they are stacked, so that the copy is the cast that the products need anyway.
    parameters = [jax.tree.map(lambda p: p.astype(hidden.dtype) if p.ndim > 1 else p, state) for state in parameters]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *parameters)

    def body(hidden, layer_inputs):
        state, layer_seeds = layer_inputs
        hidden = nnx.merge(graphs[0], state)(hidden, mask, layer_seeds)
        return hidden, hidden if every else None

    return jax.lax.scan(body, hidden, (stacked, seeds))
