"""Computes multi-head self-attention, and the per-row inputs that all layers share."""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from bert_jax import _moved
from bert_jax.config.kernels import resolve_kernel
from bert_jax.errors import UserError
from bert_jax.model import rotary_scaling
from bert_jax.model.dropout import dropout
from bert_jax.model.global_tokens import drop_weights, global_weights, placed, positions_of, tokens_at
from bert_jax.model.kernels import RESULTS, AttentionMask, attend, attention_weights, splits_evenly, with_unreached
from bert_jax.model.layers import Keys, Linear, make_norm
from bert_jax.model.layouts import constrain
from bert_jax.model.positions import apply_rotary, position_bias, relative_rows, relative_shift
from bert_jax.model.row_attention import row_attention
from bert_jax.model.row_distances import Distances
from bert_jax.model.spec import Spec
from bert_jax.model.tile_attention import tile_attention

# Kernels that read queries, keys and values as the projections give them, turn them by rotary positions, and drop
# weights; those of kernels.FUSED do none of it.
BY_UNITS = {"row": row_attention, "tile": tile_attention}

_NORMS = {"rms": "rms_norm", "layer": "layer_norm"}  # values of query_key_norm by those of norm


@_moved.renamed_members(visibility="mask", distances="relative_table")
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Holds what every layer reads beside the hidden states: mask and positions of the rows.

    Attributes:
      mask: which tokens attend to which, without the window of local layers.
      rotation: cosines and sines of rotary positions (see rotary_scaling.rotation) for layers without a window; None
        for a model without rotary positions.
      local_rotation: the same for layers with a window.
      relative_table: embeddings of relative distances, [rows, hidden]; None for a model without relative positions.
      bias: what positions add to scaled scores, float32 [1, heads, query, key]; None for a model without such a bias.
    """

    mask: AttentionMask
    rotation: tuple[jax.Array, jax.Array] | None = None
    local_rotation: tuple[jax.Array, jax.Array] | None = None
    relative_table: jax.Array | None = None
    bias: jax.Array | None = None


class SelfAttention(nnx.Module):
    """Computes softmax(Q K^T / sqrt(head_size)) V over num_heads heads (Vaswani et al. 2017, section 3.2).

    There may be fewer heads of keys and values than of queries, each of which then serves several query heads (grouped
    queries, Ainslie et al. 2023, section 2.2). With relative positions a score has further terms: the query times the
    key of the distance, and the key times the query of the distance (disentangled attention, He et al. 2021, section
    3.1). Queries and keys may be normed, over the units of each head or of all (Dehghani et al. 2023, section 2.1).
    """

    def __init__(self, spec: Spec, *, rngs: Keys):
        size, stddev = spec.hidden_size, spec.initializer_range
        queries, keys = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
        linear = functools.partial(Linear, stddev=stddev, initializer=spec.initializer, rngs=rngs)
        bias, key_bias = spec.attention_bias, spec.attention_bias and spec.key_bias
        self.query = linear(size, queries, bias=bias)
        self.key = linear(size, keys, bias=key_bias)
        self.value = linear(size, keys, bias=bias)
        self.output = Linear(
            queries, size, stddev=spec.output_stddev, bias=bias, initializer=spec.initializer, rngs=rngs
        )
        if spec.query_key_norm != "none":
            sizes = (spec.head_size, spec.head_size) if spec.query_key_norm_over == "head" else (queries, keys)
            norm = functools.partial(make_norm, spec, kind=_NORMS[spec.query_key_norm], bias=False)
            self.query_norm, self.key_norm = (norm(units) for units in sizes)
        own_projections = spec.has_relative_positions and not spec.relative_shared
        if own_projections and "c2p" in spec.relative_terms:
            self.position_key = linear(size, keys, bias=key_bias)
        if own_projections and "p2c" in spec.relative_terms:
            self.position_query = linear(size, queries, bias=bias)
        if spec.global_projections:
            self.global_query = linear(size, queries, bias=bias)
            self.global_key = linear(size, keys, bias=key_bias)
            self.global_value = linear(size, keys, bias=bias)
        self.spec = spec

    @_moved.renamed_arguments(local="window")
    def __call__(
        self,
        hidden: jax.Array,
        context: Context,
        seed: jax.Array | None,
        window: int = 0,
        queries: jax.Array | None = None,
        distance_seed: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the attention output, [batch, sequence, hidden], before dropout and residual.

        Args:
          hidden: [batch, sequence, hidden].
          context: attention mask and positions of the rows.
          seed: dropout seed of the attention weights, uint32 [2]; None for no dropout.
          window: number of tokens that a token sees, half of them on each side; 0 for all.
          queries: [batch, sequence, hidden], the input of the query projection; None for `hidden`.
          distance_seed: dropout seed of the relative table; None for no dropout.
        """
        mask, spec = self._mask(context, window), self.spec
        kernel = choose_kernel(spec, hidden.shape[1], mask, seed is not None)
        if kernel in BY_UNITS and splits_evenly(hidden.shape[0], spec.num_heads):
            return self.output(self._mixed(kernel, hidden, context, mask, queries, seed, distance_seed))
        kernel = "xla" if kernel in BY_UNITS else kernel
        query, key, value = self._project(hidden, context, mask, queries)
        run = functools.partial(attend, kernel, rate=spec.attention_dropout)
        bias = self._bias(context)
        if spec.has_relative_positions:
            bias = self._relative_scores(query, key, context.relative_table, distance_seed)
            run = functools.partial(run, num_terms=spec.relative_score_terms)
        if spec.remat == "attention":
            run = jax.checkpoint(run)
        mixed = run(query, key, value, mask, seed=seed, bias=bias)
        if self._has_own_rows(mask):
            weights, mix = self._of_global_tokens(hidden, context, mask, queries, (query, key, value))
            rows = mix(drop_weights(weights, mask, spec.attention_dropout, seed).astype(mixed.dtype))
            mixed = placed(mixed, rows, mask.global_positions)
        return self.output(mixed.transpose(0, 2, 1, 3).reshape(*hidden.shape[:2], -1))

    def _mixed(self, kernel, hidden, context, mask, queries, seed, distance_seed):
        """Returns the mixed values of all heads, [batch, sequence, units], by a kernel that reads this form."""
        query, key, value = (constrain(x, "units") for x in self._projections(hidden, queries))
        rotation, rate, run = _rotation(context, mask), self.spec.attention_dropout, BY_UNITS[kernel]
        if self.spec.has_relative_positions:
            tables = self._distance_tables(context.relative_table, distance_seed, query.dtype)
            distance_keys, distance_queries = (None if table is None else table[0] for table in tables)
            distances = Distances(relative_rows(self.spec, hidden.shape[1]), distance_keys, distance_queries)
            run = functools.partial(run, distances=distances)
        mixed = run(query, key, value, mask, self.spec.head_size, rotation, rate, seed)
        return checkpoint_name(with_unreached(mixed, mask), RESULTS)

    @_moved.renamed_arguments(local="window")
    def weights(self, hidden: jax.Array, context: Context, window: int = 0) -> jax.Array:
        """Returns attention weights before dropout, float32 [batch, heads, query, key], by plain XLA.

        Args:
          hidden: [batch, sequence, hidden].
          context, window: see `__call__`.
        """
        mask = self._mask(context, window)
        query, key, value = self._project(hidden, context, mask)
        bias, num_terms = self._bias(context), 1
        if self.spec.has_relative_positions:
            bias = self._relative_scores(query, key, context.relative_table, None)
            num_terms = self.spec.relative_score_terms
        weights = attention_weights(query, key, mask, bias, num_terms)
        if not self._has_own_rows(mask):
            return weights
        rows, _ = self._of_global_tokens(hidden, context, mask, None, (query, key, key))
        return placed(weights, rows, mask.global_positions)

    def _bias(self, context):
        """Returns the bias of positions before scaling, [1, heads, query, key], or None."""
        return None if context.bias is None else context.bias * math.sqrt(self.spec.head_size)

    def _mask(self, context, window):
        """Returns the mask of a layer with a window, or without one for 0."""
        window = self.spec.local_window if window is True else window  # as earlier versions called it
        return context.mask.with_window(window // 2) if window else context.mask

    def _has_own_rows(self, mask):
        """Returns whether the outputs of global tokens are computed beside those of the others."""
        return mask.global_positions is not None and (mask.window is not None or self.spec.global_projections)

    def _of_global_tokens(self, hidden, context, mask, queries, of_all):
        """Returns attention weights of the global tokens, and a function that mixes what they see by such weights.

        Args:
          hidden, context, queries: see `__call__`.
          mask: which tokens attend to which.
          of_all: queries, keys and values of all tokens, which those of global tokens are without maps of their own.

        Returns:
          (float32 [batch, heads, k, sequence], a function from weights to [batch, heads, k, head_size]).
        """
        positions, spec, rotation = mask.global_positions, self.spec, _rotation(context, mask)
        query, key, value = of_all
        if not spec.global_projections:
            query = tokens_at(query, positions, axis=2)
        else:
            query = self.global_query(tokens_at(hidden if queries is None else queries, positions))
            has_norms = spec.query_key_norm != "none"  # which are those of the other tokens
            query = self._heads(self._scaled(self._normed(self.query_norm, query) if has_norms else query))
            if rotation is None and not has_norms and positions.shape[1] * spec.num_heads < spec.hidden_size:
                return self._by_few_queries(query, hidden, context, mask)
            key = self.global_key(hidden) if self._key_bias_counts() else self.global_key.unbiased(hidden)
            key = self._normed(self.key_norm, key) if has_norms else key
            key, value = self._heads(key), self._heads(self.global_value(hidden))
            if rotation is not None:
                cosine, sine = (jnp.broadcast_to(angle, (len(positions), *angle.shape[1:])) for angle in rotation)
                query = apply_rotary(query, (tokens_at(cosine, positions), tokens_at(sine, positions)))
                key = apply_rotary(key, rotation)
            key, value = (constrain(self._repeat_heads(x), "heads") for x in (key, value))
        scores = jnp.einsum("bnqd,bnkd->bnqk", query, key, preferred_element_type=jnp.float32)
        weights = global_weights(scores / math.sqrt(spec.head_size), mask, context.bias)
        return weights, functools.partial(jnp.einsum, "bnkd,bnqk->bnqd", value)

    def _by_few_queries(self, query, hidden, context, mask):
        """Returns what `_of_global_tokens` does, without keys and values of all tokens.

        A query goes back through the map of the keys and is compared with the hidden states themselves, and these are
        mixed before they go through the map of the values: with few queries, the fewer products.
        """
        spec = self.spec

        def by_head(units, axis):  # [..., kv heads x head_size] -> [..., heads, head_size]
            units = units.astype(hidden.dtype).reshape(*units.shape[:-1], -1, spec.head_size)
            return jnp.repeat(units, spec.num_heads // spec.num_kv_heads, axis=axis)

        key_map, value_map = (by_head(map_.kernel[...], 1) for map_ in (self.global_key, self.global_value))
        query = jnp.einsum("bnqd,hnd->bnqh", query, key_map)
        scores = jnp.einsum("bnqh,bkh->bnqk", query, hidden, preferred_element_type=jnp.float32)

        def mix(weights):
            rows = jnp.einsum("bnqh,hnd->bnqd", jnp.einsum("bnqk,bkh->bnqh", weights, hidden), value_map)
            if not self.global_value.biased:
                return rows
            return rows + weights.sum(-1, keepdims=True) * by_head(self.global_value.bias[...], 0)[None, :, None]

        return global_weights(scores / math.sqrt(spec.head_size), mask, context.bias), mix

    def _project(self, hidden, context, mask, queries=None):
        """Returns queries, keys and values, [batch, heads, sequence, head_size] each."""
        query, key, value = (self._heads(x) for x in self._projections(hidden, queries))
        if (rotation := _rotation(context, mask)) is not None:
            query, key = apply_rotary(query, rotation), apply_rotary(key, rotation)
        return query, *(constrain(self._repeat_heads(x), "heads") for x in (key, value))

    def _key_bias_counts(self):
        """Returns whether the bias of the key map changes what is computed.

        It adds the same number to all scores of a query unless positions or a norm enter the product, and softmax
        cancels it: left out, its gradient is exactly zero instead of rounding noise.
        """
        spec = self.spec
        return spec.has_rotary_positions or spec.has_relative_positions or spec.query_key_norm != "none"

    def _projections(self, hidden, queries=None):
        """Returns queries, keys and values, [batch, sequence, units] each, before positions enter."""
        key = self.key(hidden) if self._key_bias_counts() else self.key.unbiased(hidden)
        query = self.query(hidden if queries is None else queries)
        if self.spec.query_key_norm != "none":
            query, key = self._normed(self.query_norm, query), self._normed(self.key_norm, key)
        return self._scaled(query), key, self.value(hidden)

    def _normed(self, norm, x):
        """Norms queries or keys, [batch, sequence, units]."""
        if self.spec.query_key_norm_over == "heads":
            return norm(x)
        return norm(x.reshape(*x.shape[:2], -1, self.spec.head_size)).reshape(x.shape)

    def _scaled(self, query):
        """Multiplies queries by what scores, all divided by the root of head_size, then lack (score_size)."""
        size, divisor = self.spec.head_size, self.spec.score_size
        return query if size == divisor else query * math.sqrt(size / divisor)

    def _distance_tables(self, table, seed, dtype):
        """Returns keys and queries of the relative table, [1, rows, units] each; None for a term without scores."""
        spec = self.spec
        table_seed = None if seed is None else seed[:2]  # the table is the whole batch's
        table = dropout(table, spec.hidden_dropout, table_seed).astype(dtype)[None]
        keys = queries = None
        if "c2p" in spec.relative_terms:
            keys = (self.key if spec.relative_shared else self.position_key)(table)
        if "p2c" in spec.relative_terms:
            queries = self._scaled((self.query if spec.relative_shared else self.position_query)(table))
        return keys, queries

    def _relative_scores(self, query, key, table, seed):
        """Returns the terms of the scores that depend on distances, float32 [batch, heads, query, key], unscaled."""
        rows = relative_rows(self.spec, query.shape[2])  # for the distances 1 - sequence ... sequence - 1
        scores = jnp.zeros((1, 1, 1, 1), jnp.float32)
        product = functools.partial(jnp.einsum, "bnqd,ntd->bnqt", preferred_element_type=jnp.float32)
        keys, queries = self._distance_tables(table, seed, query.dtype)
        if keys is not None:
            distance_keys = self._repeat_heads(self._split(keys))[0][:, rows]
            scores = scores + relative_shift(product(query, distance_keys))
        if queries is not None:
            # Key j is scored by the query of its distance i - j from each query i, which is at j - i here.
            distance_queries = self._split(queries)[0][:, rows[::-1]]
            scores = scores + relative_shift(product(key, distance_queries)).swapaxes(2, 3)
        return scores

    def _heads(self, x):
        """Reshapes [batch, sequence, heads x head_size] to [batch, heads, sequence, head_size], split over the mesh."""
        return constrain(self._split(x), "heads")

    def _split(self, x):
        return x.reshape(*x.shape[:2], -1, self.spec.head_size).transpose(0, 2, 1, 3)

    def _repeat_heads(self, x):
        """Repeats each head of keys or values for the query heads that it serves."""
        times = self.spec.num_heads // self.spec.num_kv_heads
        return x if times == 1 else jnp.repeat(x, times, axis=1)


def _rotation(context, mask):
    """Returns the rotary positions of a layer with a mask; None without them."""
    return context.rotation if mask.window is None else context.local_rotation


@_moved.renamed_arguments(distances="relative_table")
def make_context(
    spec: Spec, batch: Mapping, relative_table: jax.Array | None = None, bias_table: jax.Array | None = None
) -> Context:
    """Returns what all layers of a model read of a batch's rows.

    Args:
      spec: the model's spec.
      batch: attention_mask int32 [batch, sequence]; of packed rows also sequence_ids and position_ids of that shape;
        with `scored` of that shape, tokens are read that no other one attends to (late interaction); global_positions
        int32 [batch, k] are those of global tokens, -1 for none (see global_tokens.positions_of).
      relative_table: embeddings of relative distances [rows, hidden], for a model with relative positions.
      bias_table: biases of distances [rows, heads], for a model with such a bias.
    """
    mask = AttentionMask(
        batch["attention_mask"] != 0,
        batch.get("sequence_ids"),
        causal=spec.attention == "causal",
        padding_is_read="scored" in batch,
        global_positions=positions_of(spec, batch),
    )
    if not spec.has_rotary_positions:
        bias = None if bias_table is None else position_bias(spec, bias_table, batch["attention_mask"].shape[1])
        return Context(mask, relative_table=relative_table, bias=bias)
    # Attention depends on differences of rotary positions alone, so packed rows could count on through their
    # sequences; counted from 0 in each sequence they give the same bits as unpacked rows.
    positions = batch.get("position_ids")
    if positions is None:
        positions = jnp.arange(batch["attention_mask"].shape[1], dtype=jnp.int32)[None]
    sequence = batch["attention_mask"].shape[1]
    rotation = rotary_scaling.rotation(spec, positions, sequence)
    local = rotary_scaling.rotation(spec, positions, sequence, local=True) if spec.has_windows else None
    return Context(mask, rotation, local, relative_table)


@_moved.renamed_arguments(visibility="mask")
def choose_kernel(spec: Spec, sequence_length: int, mask: AttentionMask, dropping: bool) -> str:
    """Returns the attention kernel of one call: "xla", a key of BY_UNITS or of kernels.FUSED.

    Args:
      spec: the model's spec; attention_kernel "auto" is resolved here, because not every call supports every kernel.
      sequence_length: tokens in a row.
      mask: which tokens attend to which.
      dropping: whether dropout is applied to the attention weights.

    Raises:
      UserError: the spec names a kernel that does not support the call.
    """
    is_split = mask.global_positions is not None and (mask.window is not None or spec.global_projections)
    if spec.has_position_bias or is_split:
        return "xla"  # no other has a place for the bias, or for global tokens beside a window
    kernel = resolve_kernel(
        spec.attention_kernel,
        platform=spec.platform,
        dtype=spec.dtype,
        head_size=spec.head_size,
        sequence_length=sequence_length,
        dropout=spec.attention_dropout if dropping else 0.0,
        relative=spec.has_relative_positions,
    )
    if mask.window is not None and kernel not in ("splash", *BY_UNITS):
        return "xla"  # which alone, beside these, computes no scores outside the window
    if kernel != "cudnn" or mask.padding_last or not spec.task:
        return kernel
    # Fine-tuning runs several seeds under vmap, and the batching rule of cuDNN's attention takes no mask.
    if spec.attention_kernel == "cudnn":
        raise UserError(
            "config.model.attention_kernel: found cudnn, but it cannot fine-tune on packed rows, nor with windows or "
            "rotary positions; expected auto or xla, or of learned positions config.data.packing=False"
        )
    return "xla"


def __getattr__(name: str):
    return _moved.find("model.attention", name)
