"""Embeddings and the stack of layers: token ids to hidden states."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.model.attention import Context, SelfAttention, context_of, kernel_of
from bert_jax.model.kernels import padding_last, reordered
from bert_jax.model.layers import ACTIVATIONS, Convolution, Embedding, Linear, dropout, dropout_seeds, make_norm
from bert_jax.model.layouts import constrained
from bert_jax.model.positions import distance_rows
from bert_jax.model.spec import Spec
from bert_jax.model.stack import STACKED, Layers, segments_of, sources_of


class Embeddings(nnx.Module):
    """Sum of word, position and segment embeddings, normed (BERT section 3, figure 2).

    Tables of another size than the hidden states are projected to theirs (ALBERT section 3.1, factorized embeddings).
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        size, stddev = spec.embedding_size, spec.initializer_range
        self.word = Embedding(spec.vocab_size, size, stddev=stddev, place="vocabulary", rngs=rngs)
        if spec.has_learned_positions:
            self.position = Embedding(spec.max_positions + spec.position_offset, size, stddev=stddev, rngs=rngs)
        if spec.type_vocab_size:
            self.token_type = Embedding(spec.type_vocab_size, size, stddev=stddev, rngs=rngs)
        if spec.embedding_norm:
            self.norm = make_norm(spec, size)
        if spec.embedding_projection:
            self.projection = Linear(size, spec.hidden_size, stddev=stddev, rngs=rngs)
        self.spec = spec

    def __call__(self, batch: dict, seed: jax.Array | None) -> jax.Array:
        """[batch, sequence] ids, segments and attention_mask to [batch, sequence, hidden]."""
        spec, hidden = self.spec, self.word(batch["input_ids"])
        # The padding's own embedding learns nothing, also where a loss reads every position.
        hidden = jnp.where(batch["attention_mask"][:, :, None] != 0, hidden, jax.lax.stop_gradient(hidden))
        if spec.has_learned_positions:
            hidden = hidden + self._positions(batch)
        if spec.type_vocab_size:
            types = batch["token_type_ids"]  # the one type of RoBERTa is that of both segments
            hidden = hidden + self.token_type(types if spec.type_vocab_size > 1 else jnp.zeros_like(types))
        if spec.embedding_norm:
            hidden = self.norm(hidden)
        hidden = dropout(hidden.astype(spec.dtype), spec.hidden_dropout, seed)
        if spec.embedding_projection:
            hidden = self.projection(hidden)
        return constrained(hidden, "hidden")

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
    """Two linear maps with an activation between them; gated, the first map's outputs times those of a third.

    Gated: down(activation(gate(x)) * up(x)), GeGLU and SwiGLU (Shazeer 2020).
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        size, units, stddev, bias = spec.hidden_size, spec.intermediate_size, spec.initializer_range, spec.mlp_bias
        self.up = Linear(size, units, stddev=stddev, bias=bias, rngs=rngs)
        self.down = Linear(units, size, stddev=spec.output_stddev, bias=bias, rngs=rngs)
        if spec.mlp == "gated":
            self.gate = Linear(size, units, stddev=stddev, bias=bias, rngs=rngs)
        self.activation, self.gated = ACTIVATIONS[spec.activation], spec.mlp == "gated"

    def __call__(self, hidden: jax.Array) -> jax.Array:
        up = constrained(self.up(hidden), "units")
        if not self.gated:
            return self.down(self.activation(up))
        return self.down(self.activation(constrained(self.gate(hidden), "units")) * up)


class Layer(nnx.Module):
    """Attention and MLP, each with dropout, residual and a norm: after the residual, or before what it goes around.

    Norms before (Xiong et al. 2020, figure 1) leave the residual stream alone; `first` may then do without the norm
    before its attention, behind that of the embeddings (ModernBERT section 2.1.1). `first` may also have a convolution
    beside it, of what the layer is given, before any norm (DeBERTa v2, microsoft/DeBERTa).
    """

    def __init__(self, spec: Spec, *, first: bool = False, rngs: nnx.Rngs):
        self.attention = SelfAttention(spec, rngs=rngs)
        self.normed = spec.first_norm or not first
        if self.normed:
            self.attention_norm = make_norm(spec, spec.hidden_size)
        self.mlp = MLP(spec, rngs=rngs)
        self.mlp_norm = make_norm(spec, spec.hidden_size)
        self.convolved = first and spec.conv_kernel_size > 0
        if self.convolved:
            self.conv = Convolution(spec, rngs=rngs)
        self.dropout, self.before = spec.hidden_dropout, spec.norm_place == "pre"

    def __call__(
        self,
        hidden: jax.Array,
        context: Context,
        seeds: jax.Array | None,
        local: bool = False,
        queries: jax.Array | None = None,
    ) -> jax.Array:
        """[batch, sequence, hidden] to the same.

        Args:
          hidden: [batch, sequence, hidden].
          context: of the rows.
          seeds: uint32 [layer_seeds(spec), 2]; None for no dropout.
          local: whether tokens see a window alone.
          queries: what attends to `hidden`, and what is added to, where that is another stream of the same shape.
        """
        seeds = (None,) * 5 if seeds is None else (*seeds, None, None)[:5]
        weights_seed, attention_seed, mlp_seed, distance_seed, conv_seed = seeds
        stream = hidden if queries is None else queries
        read = [x if x is None else self._before_attention(x) for x in (hidden, queries)]
        mixed = self.attention(read[0], context, weights_seed, local, read[1], distance_seed)
        stream = stream + dropout(constrained(mixed, "hidden"), self.dropout, attention_seed)
        if not self.before:
            stream = self.attention_norm(stream)
        mixed = constrained(self.mlp(self.mlp_norm(stream) if self.before else stream), "hidden")
        stream = stream + dropout(mixed, self.dropout, mlp_seed)
        if not self.before:
            stream = self.mlp_norm(stream)
        if self.convolved:
            stream = self.conv(hidden, stream, context.visibility, conv_seed)
        return stream

    def attention_weights(self, hidden: jax.Array, context: Context, local: bool) -> jax.Array:
        """Those of its heads, float32 [batch, heads, query, key], of what `__call__` is given."""
        return self.attention.weights(self._before_attention(hidden), context, local)

    def _before_attention(self, hidden):
        return self.attention_norm(hidden) if self.before and self.normed else hidden


def layer_seeds(spec: Spec) -> int:
    """How many seeds of dropout a layer takes: those of distances and of the convolution only where it has one."""
    return 5 if spec.has_relative_positions or spec.conv_kernel_size else 3


class Encoder(nnx.Module):
    """Embeddings and layers; `stack` makes it one whose equal layers hold their parameters together."""

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        self.embeddings = Embeddings(spec, rngs=rngs)
        numbers = range(max(sources_of(spec)) + 1)
        self.layers = nnx.Dict({str(i): Layer(spec, first=i == 0, rngs=rngs) for i in numbers})
        if spec.norm_place == "pre":
            self.norm = make_norm(spec, spec.hidden_size)
        if spec.has_relative_positions:
            stddev = spec.initializer_range
            self.relative = Embedding(distance_rows(spec), spec.hidden_size, stddev=stddev, rngs=rngs)
            if spec.relative_norm:
                self.relative_norm = make_norm(spec, spec.hidden_size)
        self.spec = spec

    def stack(self, names) -> None:
        """Keeps of the layers what has these names: "0" and STACKED, or STACKED alone; for shapes alone."""
        last = self.layers[str(len(self.layers) - 1)]
        self.layers = nnx.Dict({name: last if name == STACKED else self.layers[name] for name in names})

    def context(self, batch: dict) -> Context:
        """What the layers know of a batch's rows."""
        distances = None
        if self.spec.has_relative_positions:
            distances = self.relative.embedding[...]
            distances = self.relative_norm(distances) if self.spec.relative_norm else distances
        return context_of(self.spec, batch, distances)

    def attention_weights(self, batch: dict, states: jax.Array) -> jax.Array:
        """Those of every head, float32 [layers, batch, heads, query, key].

        Args:
          batch: the model's input.
          states: what `__call__` gives for it with `every`.
        """
        context, layers, found = self.context(batch), self._layers(), []
        for segment in segments_of(self.spec):
            for i, source in enumerate(segment.sources):
                local = segment.local[i % len(segment.local)]
                state = states[segment.first + i]
                found.append(layers.module(source).attention_weights(state, context, local))
        return jnp.stack(found)

    def __call__(
        self, batch: dict, dropout_key: jax.Array | None, every: bool = False, absolute: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Hidden states of the last layer, [batch, sequence, hidden] in the compute dtype; what `absolute` asks for.

        Args:
          batch: the model's input.
          dropout_key: turns dropout on.
          every: for the states of the embeddings and of each layer, [1 + layers, batch, sequence, hidden], in place of
            the last one's.
          absolute: [batch or 1, sequence, hidden]: gives also what the last layer makes of them (see `_read_again`);
            None for None.
        """
        spec, embedding_seed, seeds, seeds_again = self.spec, None, None, None
        if dropout_key is not None:
            embedding_key, layer_key = jax.random.split(dropout_key)
            embedding_seed = dropout_seeds(embedding_key)
            seeds = dropout_seeds(layer_key, spec.num_layers, layer_seeds(spec))
            if absolute is not None:
                seeds_again = dropout_seeds(jax.random.fold_in(layer_key, 1), 2, layer_seeds(spec))
        hidden = self.embeddings(batch, embedding_seed)
        context, order = self.context(batch), None
        if self._reorders(context.visibility, hidden.shape[1], seeds is not None):
            order, back = padding_last(context.visibility.present)
            context = dataclasses.replace(context, visibility=context.visibility.with_padding_last(order))
            hidden = reordered(hidden, order)
        states, layers, before = [hidden[None]], self._layers(), hidden
        for segment in segments_of(spec):
            before = hidden
            hidden, of_layers = layers.run(segment, hidden, context, seeds, every)
            states.append(of_layers)
        again = None
        if absolute is not None:
            again = self._read_again(layers, before, absolute, context, seeds_again)
        if spec.norm_place == "pre":
            hidden = self.norm(hidden)
            again = again if again is None else self.norm(again)
        if every:
            states[-1] = states[-1].at[-1].set(hidden)
            hidden = jnp.concatenate(states)
        if order is None:
            return hidden, again
        return jax.vmap(lambda x: reordered(x, back))(hidden) if every else reordered(hidden, back), again

    def _read_again(self, layers, before, absolute, context, seeds):
        """The enhanced mask decoder (He et al. 2021, section 3.2): the last layer twice more over its own input.

        Its queries begin as that input plus absolute positions, which enter nowhere else, and then are what it gave.
        """
        last = segments_of(self.spec)[-1]
        module, stream = layers.module(last.sources[-1]), before + absolute.astype(before.dtype)
        for turn in range(2):
            of_turn = None if seeds is None else seeds[turn]
            stream = module(before, context, of_turn, last.local[-1], stream)
        return stream

    def _reorders(self, visibility, sequence, dropping):
        """Whether rows are run with their padding at the end, which a kernel needs and only learned positions allow."""
        spec = self.spec
        order_counts = spec.has_rotary_positions or spec.has_relative_positions
        order_counts = order_counts or spec.local_window or spec.conv_kernel_size
        if visibility.sequence_ids is not None or order_counts:
            return False
        moved = dataclasses.replace(visibility, padding_last=True)
        return kernel_of(spec, sequence, moved, dropping) == "cudnn"

    def _layers(self):
        return Layers(self.layers, self.spec.remat, self.spec.scan_layers)
