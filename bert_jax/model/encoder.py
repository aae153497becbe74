"""Embeddings and the stack of layers: token ids to hidden states."""

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import SelfAttention, kernel_of, visibility_of
from bert_jax.model.kernels import Visibility, padding_last, reordered
from bert_jax.model.layers import ACTIVATIONS, Embedding, LayerNorm, Linear, dropout, dropout_seeds
from bert_jax.model.layouts import constrained
from bert_jax.model.spec import Spec
from bert_jax.model.stack import scanned, scanned_stack, unrolled


class Embeddings(nnx.Module):
    """Sum of word, position and segment embeddings, normed (BERT section 3, figure 2)."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        size, stddev = spec.hidden_size, spec.initializer_range
        self.word = Embedding(spec.vocab_size, size, stddev=stddev, place="vocabulary", rngs=rngs)
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
        return constrained(dropout(hidden.astype(self.spec.dtype), self.spec.hidden_dropout, seed), "hidden")

    def _positions(self, batch):
        """Position embeddings, [1 or batch, sequence, hidden].

        Packed rows say each token's position in its own sequence. Behind an offset, as in fairseq: a padding token,
        wherever it stands, has the row before the first position, and is not counted, which is done here for packed
        rows too.
        """
        input_ids, first = batch["input_ids"], self.spec.position_offset
        places = batch.get("position_ids")
        if not first and places is None:
            return constrained(self.position.embedding[...], "table")[None, : input_ids.shape[1]]
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
        return self.down(ACTIVATIONS[self.activation](constrained(self.up(hidden), "units")))


class Layer(nnx.Module):
    """Attention and MLP, each with dropout, residual and a norm after them."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.attention = SelfAttention(spec, rngs=rngs)
        self.attention_norm = LayerNorm(spec.hidden_size, epsilon=spec.norm_epsilon)
        self.mlp = MLP(spec, rngs=rngs)
        self.mlp_norm = LayerNorm(spec.hidden_size, epsilon=spec.norm_epsilon)
        self.dropout = spec.hidden_dropout

    def __call__(self, hidden: jax.Array, visibility: Visibility, seeds: jax.Array | None) -> jax.Array:
        """[batch, sequence, hidden] to the same; `seeds` uint32 [3, 2] or None for no dropout."""
        weights_seed, attention_seed, mlp_seed = (None, None, None) if seeds is None else seeds
        mixed = constrained(self.attention(hidden, visibility, weights_seed), "hidden")
        hidden = self.attention_norm(hidden + dropout(mixed, self.dropout, attention_seed))
        mixed = constrained(self.mlp(hidden), "hidden")
        return self.mlp_norm(hidden + dropout(mixed, self.dropout, mlp_seed))


class Encoder(nnx.Module):
    """Embeddings and layers; with `stacked`, a single layer that holds the parameters of all."""

    stacked = False

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(spec, rngs=rngs)
        self.layers = nnx.List([Layer(spec, rngs=rngs) for _ in range(spec.num_layers)])
        self.spec = spec

    def attention_weights(self, batch: dict, states: jax.Array) -> jax.Array:
        """Those of every head, float32 [layers, batch, heads, query, key].

        Args:
          batch: the model's input.
          states: what `__call__` gives for it with `every`. Single layers alone know their weights, not `stacked` ones.
        """
        visibility = visibility_of(self.spec, batch)
        return jnp.stack([self.layers[i].attention.weights(states[i], visibility) for i in range(len(self.layers))])

    def __call__(self, batch: dict, dropout_key: jax.Array | None, every: bool = False) -> jax.Array:
        """Hidden states of the last layer, [batch, sequence, hidden], in the compute dtype.

        With `every`, those of the embeddings and of each layer, [1 + layers, batch, sequence, hidden].
        """
        embedding_seed = layer_seeds = None
        if dropout_key is not None:
            embedding_key, layer_key = jax.random.split(dropout_key)
            embedding_seed = dropout_seeds(embedding_key)
            layer_seeds = dropout_seeds(layer_key, self.spec.num_layers, 3)
        hidden = self.embeddings(batch, embedding_seed)
        visibility, back = visibility_of(self.spec, batch), None
        packed, dropping = visibility.sequence_ids is not None, layer_seeds is not None
        if not packed and kernel_of(self.spec, hidden.shape[1], packed, dropping) == "cudnn":
            order, back = padding_last(visibility.present)
            visibility, hidden = visibility.reordered(order), reordered(hidden, order)
        run = scanned_stack if self.stacked else scanned if self.spec.scan_layers else unrolled
        layers = self.layers[0] if self.stacked else self.layers
        last, of_layers = run(layers, hidden, visibility, layer_seeds, self.spec.remat, every)
        found = jnp.concatenate([hidden[None], of_layers]) if every else last
        if back is None:
            return found
        return jax.vmap(lambda states: reordered(states, back))(found) if every else reordered(found, back)
