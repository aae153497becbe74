"""Computes hidden states from token ids: embeddings and a stack of Transformer layers."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax import _moved
from bert_jax.model.attention import Context, SelfAttention, choose_kernel, make_context
from bert_jax.model.dropout import dropout, dropout_seeds
from bert_jax.model.kernels import AttentionMask, padding_last_order, reorder
from bert_jax.model.layers import ACTIVATIONS, Convolution, Embedding, Keys, Linear, make_norm
from bert_jax.model.layouts import constrain
from bert_jax.model.positions import relative_table_size
from bert_jax.model.spec import Spec
from bert_jax.model.stack import STACKED, Layers, layer_patterns, parameter_layers

_MASKED_SHARE = 0.15 * 0.8  # share of mask tokens in ESM-2's training (facebookresearch/esm, esm/model/esm2.py)


class Embeddings(nnx.Module):
    """Sums word, position and segment embeddings, followed by a norm (BERT section 3, figure 2).

    Embeddings of another size than the hidden states are projected to theirs (ALBERT section 3.1, factorized
    embeddings).
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        size, stddev = spec.embedding_size, spec.initializer_range
        self.word = Embedding(
            spec.vocab_size, size, stddev=stddev, layout="vocabulary", initializer=spec.initializer, rngs=rngs
        )
        if spec.has_learned_positions:
            self.position = Embedding(
                spec.max_positions + spec.position_offset, size, stddev=stddev, initializer=spec.initializer, rngs=rngs
            )
        if spec.type_vocab_size:
            self.token_type = Embedding(
                spec.type_vocab_size, size, stddev=stddev, initializer=spec.initializer, rngs=rngs
            )
        if spec.embedding_norm:
            self.norm = make_norm(spec, size)
        if spec.embedding_projection:
            self.projection = Linear(size, spec.hidden_size, stddev=stddev, initializer=spec.initializer, rngs=rngs)
        self.spec = spec

    def __call__(self, batch: Mapping, seed: jax.Array | None) -> jax.Array:
        """Embeds tokens; returns [batch, sequence, hidden] in the compute dtype.

        Args:
          batch: input_ids, token_type_ids and attention_mask int32 [batch, sequence], and of packed rows sequence_ids
            and position_ids of the same shape.
          seed: dropout seed, uint32 [2]; None for no dropout.
        """
        spec, hidden = self.spec, self.word(batch["input_ids"])
        if spec.embedding_scale:
            hidden = hidden * math.sqrt(spec.embedding_size)
        # The embedding of padding gets no gradient, even where a loss reads every position.
        hidden = jnp.where(batch["attention_mask"][:, :, None] != 0, hidden, jax.lax.stop_gradient(hidden))
        if spec.token_dropout:
            hidden = hidden * _word_scale(batch, spec.mask_id)[:, :, None]
        if spec.has_learned_positions:
            hidden = hidden + self._positions(batch)
        if spec.type_vocab_size:
            types = batch["token_type_ids"]  # RoBERTa has one type, which both segments share
            hidden = hidden + self.token_type(types if spec.type_vocab_size > 1 else jnp.zeros_like(types))
        if spec.embedding_norm:
            hidden = self.norm(hidden)
        hidden = dropout(hidden.astype(spec.dtype), spec.hidden_dropout, seed)
        if spec.embedding_projection:
            hidden = self.projection(hidden)
        return constrain(hidden, "hidden")

    def _positions(self, batch):
        """Returns position embeddings, [1 or batch, sequence, size].

        Packed rows give each token's position in its own sequence. With a position offset (fairseq, RoBERTa) a padding
        token, wherever it stands, reads the table's row before the first position and is not counted as a position; the
        same is done for packed rows.
        """
        input_ids, first = batch["input_ids"], self.spec.position_offset
        positions = batch.get("position_ids")
        if not first and positions is None:
            return constrain(self.position.embedding[...], "table")[None, : input_ids.shape[1]]
        if not first:
            return self.position(positions)
        counted = (input_ids != first - 1).astype(jnp.int32)
        if "sequence_ids" in batch:
            positions = _positions_in_sequences(counted, batch["sequence_ids"])
        elif positions is None:
            positions = jnp.cumsum(counted, axis=1) - 1
        rows = self.position((positions + 1) * counted + (first - 1))
        return jnp.where(counted[:, :, None] != 0, rows, jax.lax.stop_gradient(rows))


def _positions_in_sequences(counted, sequence_ids):
    """Returns each counted token's position among the counted tokens of its own sequence; int32 [batch, sequence]."""
    return jnp.cumsum(counted, axis=1) - _before_sequences(counted, sequence_ids) - 1


def _before_sequences(counted, sequence_ids):
    """Returns how many counted tokens of the row are before each token's sequence; int32 [batch, sequence]."""
    begins = sequence_ids != jnp.roll(sequence_ids, 1, axis=1).at[:, 0].set(-1)
    return jax.lax.cummax(jnp.where(begins, jnp.cumsum(counted, axis=1) - counted, 0), axis=1)


def _in_sequences(counted, sequence_ids):
    """Returns how many counted tokens each token's sequence has; int32 [batch, 1 or sequence].

    Without packed rows, sequence_ids is None and a row is a sequence.
    """
    total = counted.sum(axis=1, keepdims=True)
    if sequence_ids is None:
        return total
    others = _before_sequences(counted, sequence_ids)
    others += _before_sequences(counted[:, ::-1], sequence_ids[:, ::-1])[:, ::-1]  # those behind the sequence
    return total - others


def _word_scale(batch, mask_id):
    """Returns the factors of word embeddings with token dropout, float32 [batch, sequence]; 0 for mask and padding."""
    present = batch["attention_mask"] != 0
    masked = present & (batch["input_ids"] == mask_id)
    tokens, masks = (
        _in_sequences(counted.astype(jnp.int32), batch.get("sequence_ids")) for counted in (present, masked)
    )
    kept = present & ~masked  # its sequence is not all masks
    share = jnp.where(kept, masks / jnp.maximum(tokens, 1), 0)
    return jnp.where(kept, (1 - _MASKED_SHARE) / (1 - share), 0)


class MLP(nnx.Module):
    """Computes the feed-forward block: down(activation(up(x))), or gated down(activation(gate(x)) * up(x)).

    The gated form is GeGLU or SwiGLU, by its activation (Shazeer 2020).
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        size, units, stddev, bias = spec.hidden_size, spec.intermediate_size, spec.initializer_range, spec.mlp_bias
        up_bias = bias and spec.mlp_up_bias
        self.up = Linear(size, units, stddev=stddev, bias=up_bias, initializer=spec.initializer, rngs=rngs)
        self.down = Linear(units, size, stddev=spec.output_stddev, bias=bias, initializer=spec.initializer, rngs=rngs)
        if spec.mlp == "gated":
            self.gate = Linear(size, units, stddev=stddev, bias=up_bias, initializer=spec.initializer, rngs=rngs)
        self.activation, self.gated = ACTIVATIONS[spec.activation], spec.mlp == "gated"

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Maps [batch, sequence, hidden] to the same shape."""
        up = constrain(self.up(hidden), "units")
        if not self.gated:
            return self.down(self.activation(up))
        return self.down(self.activation(constrain(self.gate(hidden), "units")) * up)


@_moved.renamed_members(normed="has_attention_norm", convolved="has_convolution", before="pre_norm")
class Layer(nnx.Module):
    """Computes a Transformer layer: attention and MLP, each with dropout, a residual connection and a norm.

    With norm_place "post" the norm follows the residual sum, with "pre" it precedes attention and MLP and leaves the
    residual stream alone (Xiong et al. 2020, figure 1). With "pre", the first layer may lack the norm before its
    attention, because the embeddings have just been normed (ModernBERT section 2.1.1). With output_norm what attention
    and MLP give is normed too, before the residual is added (Ding et al. 2021). The first layer may also have a
    convolution beside it that reads the layer's input before any norm (DeBERTa v2, microsoft/DeBERTa).
    """

    def __init__(self, spec: Spec, *, first: bool = False, rngs: Keys):
        self.attention = SelfAttention(spec, rngs=rngs)
        self.has_attention_norm = spec.first_norm or not first
        if self.has_attention_norm:
            self.attention_norm = make_norm(spec, spec.hidden_size)
        self.mlp = MLP(spec, rngs=rngs)
        self.mlp_norm = make_norm(spec, spec.hidden_size)
        self.has_output_norms, self.residual_scale = spec.output_norm, spec.residual_scale
        if spec.output_norm:
            self.attention_output_norm, self.mlp_output_norm = (make_norm(spec, spec.hidden_size) for _ in range(2))
        self.has_convolution = first and spec.conv_kernel_size > 0
        if self.has_convolution:
            self.conv = Convolution(spec, rngs=rngs)
        self.dropout, self.attention_dropout = spec.hidden_dropout, spec.attention_output_dropout
        self.pre_norm = spec.norm_place == "pre"

    @_moved.renamed_arguments(local="window")
    def __call__(
        self,
        hidden: jax.Array,
        context: Context,
        seeds: jax.Array | None,
        window: int = 0,
        queries: jax.Array | None = None,
        between: Callable[[jax.Array], jax.Array] | None = None,
    ) -> jax.Array:
        """Runs the layer; returns [batch, sequence, hidden].

        Args:
          hidden: [batch, sequence, hidden].
          context: attention mask and positions of the rows.
          seeds: dropout seeds, uint32 [seeds_per_layer(spec), 2]; None for no dropout.
          window: number of tokens that a token sees, half of them on each side; 0 for all.
          queries: [batch, sequence, hidden], another residual stream whose tokens attend to `hidden` and which the
            layer's outputs are added to; None for `hidden` itself.
          between: maps the residual stream between attention and MLP; None for no change.
        """
        dropout_seeds = (None,) * 5 if seeds is None else (*seeds, None, None)[:5]
        weights_seed, attention_seed, mlp_seed, distance_seed, conv_seed = dropout_seeds
        stream = hidden if queries is None else queries
        queries = None if queries is None else self._attention_input(queries)
        mixed = self.attention(self._attention_input(hidden), context, weights_seed, window, queries, distance_seed)
        mixed = constrain(mixed, "hidden")
        if self.has_output_norms:
            mixed = self.attention_output_norm(mixed)
        mixed = self._scaled(mixed)
        stream = stream + dropout(mixed, self.attention_dropout, attention_seed)
        if not self.pre_norm:
            stream = self.attention_norm(stream)
        if between is not None:
            stream = between(stream)
        mixed = constrain(self.mlp(self.mlp_norm(stream) if self.pre_norm else stream), "hidden")
        if self.has_output_norms:
            mixed = self.mlp_output_norm(mixed)
        mixed = self._scaled(mixed)
        stream = stream + dropout(mixed, self.dropout, mlp_seed)
        if not self.pre_norm:
            stream = self.mlp_norm(stream)
        if self.has_convolution:
            stream = self.conv(hidden, stream, context.mask, conv_seed)
        return stream

    @_moved.renamed_arguments(local="window")
    def attention_weights(self, hidden: jax.Array, context: Context, window: int) -> jax.Array:
        """Returns the attention weights of every head for the input of `__call__`, float32 [batch, heads, query, key].

        Args:
          hidden: the layer's input, [batch, sequence, hidden].
          context, window: see `__call__`.
        """
        return self.attention.weights(self._attention_input(hidden), context, window)

    def _scaled(self, mixed):
        return mixed if self.residual_scale == 1 else mixed / self.residual_scale

    def _attention_input(self, hidden):
        return self.attention_norm(hidden) if self.pre_norm and self.has_attention_norm else hidden


def seeds_per_layer(spec: Spec) -> int:
    """Returns the number of dropout seeds of a layer: 3, or 5 with relative positions or a convolution."""
    return 5 if spec.has_relative_positions or spec.conv_kernel_size else 3


class Encoder(nnx.Module):
    """Runs embeddings and layers, and with norm_place "pre" a norm behind the last layer.

    Each layer has its own module, or after `stack` all equal layers share one whose parameters have a leading axis.
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        self.embeddings = Embeddings(spec, rngs=rngs)
        numbers = range(max(parameter_layers(spec)) + 1)
        self.layers = nnx.Dict({str(i): Layer(spec, first=i == 0, rngs=rngs) for i in numbers})
        if spec.norm_place == "pre":
            self.norm = make_norm(spec, spec.hidden_size, bias=spec.final_norm_bias)
        if spec.has_relative_positions:
            stddev = spec.initializer_range
            self.relative = Embedding(
                relative_table_size(spec), spec.hidden_size, stddev=stddev, initializer=spec.initializer, rngs=rngs
            )
            if spec.relative_norm:
                self.relative_norm = make_norm(spec, spec.hidden_size)
        if spec.has_position_bias:
            self.position_bias = Embedding(
                spec.bias_buckets,
                spec.num_heads,
                stddev=spec.initializer_range,
                initializer=spec.initializer,
                rngs=rngs,
            )
        self.spec = spec

    def stack(self, names: Iterable[str]) -> None:
        """Replaces the layers by entries of the given names, to hold stacked parameters; their values are not kept.

        Args:
          names: "0" and STACKED, or STACKED alone.
        """
        last = self.layers[str(len(self.layers) - 1)]
        self.layers = nnx.Dict({name: last if name == STACKED else self.layers[name] for name in names})

    def context(self, batch: Mapping) -> Context:
        """Returns what every layer reads beside the hidden states: the rows' attention mask and positions."""
        relative_table = None
        if self.spec.has_relative_positions:
            relative_table = self.relative.embedding[...]
            relative_table = self.relative_norm(relative_table) if self.spec.relative_norm else relative_table
        bias_table = self.position_bias.embedding[...] if self.spec.has_position_bias else None
        return make_context(self.spec, batch, relative_table, bias_table)

    def attention_weights(self, batch: Mapping, states: jax.Array) -> jax.Array:
        """Returns the attention weights of every head, float32 [layers, batch, heads, query, key].

        Args:
          batch: the model's input.
          states: [1 + layers, batch, sequence, hidden], as `__call__` returns them with `return_all_layers`.
        """
        context, layers, weights = self.context(batch), self._layers(), []
        for pattern in layer_patterns(self.spec):
            for i, source in enumerate(pattern.sources):
                window = pattern.windows[i % len(pattern.windows)]
                state = states[pattern.first + i]
                weights.append(layers.module(source).attention_weights(state, context, window))
        return jnp.stack(weights)

    @_moved.renamed_arguments(every="return_all_layers", absolute="absolute_positions")
    def __call__(
        self,
        batch: Mapping,
        dropout_key: jax.Array | None,
        return_all_layers: bool = False,
        absolute_positions: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns (hidden states, output of the enhanced mask decoder).

        Args:
          batch: the model's input (see Model.apply).
          dropout_key: a jax.random key turns dropout on; None turns it off.
          return_all_layers: whether the embeddings and every layer's output are returned, not only the last one's.
          absolute_positions: position embeddings [1 or batch, sequence, hidden] for the enhanced mask decoder; None
            for a model without one.

        Returns:
          Hidden states [batch, sequence, hidden] in the compute dtype, or with `return_all_layers` [1 + layers, batch,
          sequence, hidden]; and the mask decoder's output [batch, sequence, hidden], or None without
          `absolute_positions`.
        """
        spec, embedding_seed, layer_seeds, decoder_seeds = self.spec, None, None, None
        if dropout_key is not None:
            embedding_key, layer_key = jax.random.split(dropout_key)
            seeds_of = functools.partial(dropout_seeds, row_numbers=batch.get("row_numbers"))
            embedding_seed = seeds_of(embedding_key)
            layer_seeds = seeds_of(layer_key, spec.num_layers, seeds_per_layer(spec))
            if absolute_positions is not None:
                decoder_seeds = seeds_of(jax.random.fold_in(layer_key, 1), 2, seeds_per_layer(spec))
        hidden = self.embeddings(batch, embedding_seed)
        context, back = self.context(batch), None
        if self._moves_padding(context.mask, hidden.shape[1], layer_seeds is not None):
            order, back = padding_last_order(context.mask.present)
            context = dataclasses.replace(context, mask=context.mask.with_padding_last(order))
            hidden = reorder(hidden, order)
        states, layers, pattern_input = [hidden[None]], self._layers(), hidden
        for pattern in layer_patterns(spec):
            pattern_input = hidden
            hidden, outputs = layers.run(pattern, hidden, context, layer_seeds, return_all_layers)
            if outputs is not None:
                states.append(outputs)
        mask_decoder_output = None
        if absolute_positions is not None:  # the last layer is then a pattern of its own
            mask_decoder_output = self._decode_masks(layers, pattern_input, absolute_positions, context, decoder_seeds)
        if spec.norm_place == "pre":
            hidden = self.norm(hidden)
            mask_decoder_output = None if mask_decoder_output is None else self.norm(mask_decoder_output)
        if return_all_layers:
            states[-1] = states[-1].at[-1].set(hidden)
            hidden = jnp.concatenate(states)
        if back is None:
            return hidden, mask_decoder_output
        if return_all_layers:
            return jax.vmap(lambda x: reorder(x, back))(hidden), mask_decoder_output
        return reorder(hidden, back), mask_decoder_output

    def modules(self) -> Iterator[tuple["Layer", int]]:
        """Yields each layer's module, in order, and the number of tokens that a token sees there, 0 for all."""
        layers = self._layers()
        for pattern in layer_patterns(self.spec):
            for i, source in enumerate(pattern.sources):
                yield layers.module(source), pattern.windows[i % len(pattern.windows)]

    def _decode_masks(self, layers, hidden, absolute_positions, context, seeds):
        """Runs the enhanced mask decoder (He et al. 2021, section 3.2): the last layer twice more over its own input.

        Its queries are first that input plus absolute positions, which enter nowhere else, and then its own output.
        """
        last = layer_patterns(self.spec)[-1]
        module, stream = layers.module(last.sources[-1]), hidden + absolute_positions.astype(hidden.dtype)
        for turn in range(2):
            stream = module(hidden, context, None if seeds is None else seeds[turn], last.windows[-1], stream)
        return stream

    def _moves_padding(self, mask: AttentionMask, sequence: int, dropout_active: bool) -> bool:
        """Returns whether padding is moved to the end of each row, which cuDNN's kernel needs.

        It is possible where the order of tokens has no effect beyond the position embeddings.
        """
        spec = self.spec
        order_counts = spec.has_rotary_positions or spec.has_relative_positions or spec.has_position_bias
        order_counts = order_counts or spec.has_windows or spec.conv_kernel_size
        if mask.sequence_ids is not None or mask.global_positions is not None or order_counts:
            return False
        moved = dataclasses.replace(mask, padding_last=True)
        return choose_kernel(spec, sequence, moved, dropout_active) == "cudnn"

    def _layers(self):
        return Layers(self.layers, self.spec.remat, self.spec.scan_layers)


def __getattr__(name: str):
    return _moved.find("model.encoder", name)
