"""Multi-head self-attention, and what every layer of a row's encoding knows of the row."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from bert_jax.config.kernels import resolve_kernel
from bert_jax.errors import UserError
from bert_jax.model.kernels import Visibility, attend, weights
from bert_jax.model.layers import Linear, dropout
from bert_jax.model.layouts import constrained
from bert_jax.model.positions import by_key, rotated, rotations, rows_of_distances
from bert_jax.model.spec import Spec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What the layers are told of the rows beside their hidden states.

    Attributes:
      visibility: which tokens may see each other, windows aside.
      rotation, local_rotation: of queries and keys, as positions.rotations gives them, in layers that see all tokens
        and in those that see a window; None without rotary positions.
      distances: the table of relative distances, [rows, hidden]; None without relative positions.
    """

    visibility: Visibility
    rotation: tuple[jax.Array, jax.Array] | None = None
    local_rotation: tuple[jax.Array, jax.Array] | None = None
    distances: jax.Array | None = None


class SelfAttention(nnx.Module):
    """softmax(Q K^T / sqrt(head_size)) V over num_heads heads (Vaswani et al. 2017, section 3.2).

    Keys and values may have fewer heads, each of which serves several heads of queries (Ainslie et al. 2023, section
    2.2). With relative positions, a score is the sum of that product and of the products of the query with the key of
    the distance, and of the key with the query of the distance (disentangled attention, He et al. 2021, section 3.1).
    """

    def __init__(self, spec: Spec, *, rngs: nnx.Rngs):
        size, stddev = spec.hidden_size, spec.initializer_range
        queries, keys = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
        linear = functools.partial(Linear, stddev=stddev, rngs=rngs)
        bias, key_bias = spec.attention_bias, spec.attention_bias and spec.key_bias
        self.query = linear(size, queries, bias=bias)
        self.key = linear(size, keys, bias=key_bias)
        self.value = linear(size, keys, bias=bias)
        self.output = Linear(queries, size, stddev=spec.output_stddev, bias=bias, rngs=rngs)
        own = spec.has_relative_positions and not spec.relative_shared
        if own and "c2p" in spec.relative_terms:
            self.position_key = linear(size, keys, bias=key_bias)
        if own and "p2c" in spec.relative_terms:
            self.position_query = linear(size, queries, bias=bias)
        self.spec = spec

    def __call__(
        self,
        hidden: jax.Array,
        context: Context,
        seed: jax.Array | None,
        local: bool = False,
        queries: jax.Array | None = None,
        distance_seed: jax.Array | None = None,
    ) -> jax.Array:
        """[batch, sequence, hidden], before dropout and residual.

        Args:
          hidden: [batch, sequence, hidden].
          context: of the rows.
          seed: of the dropout of the attention weights; None for none.
          local: whether tokens see a window alone.
          queries: what the queries are made of, where that is not `hidden`.
          distance_seed: of the dropout of the table of distances; None for none.
        """
        query, key, value = self._projected(hidden, context, local, queries)
        visibility, spec = self._visibility(context, local), self.spec
        kernel = kernel_of(spec, hidden.shape[1], visibility, seed is not None)
        run = functools.partial(attend, kernel, rate=spec.attention_dropout)
        bias = None
        if spec.has_relative_positions:
            bias = self._distance_scores(query, key, context.distances, distance_seed)
            run = functools.partial(run, terms=spec.relative_score_terms)
        if spec.remat == "attention":
            run = jax.checkpoint(run)
        mixed = run(query, key, value, visibility, seed=seed, bias=bias)
        return self.output(mixed.transpose(0, 2, 1, 3).reshape(*hidden.shape[:2], -1))

    def weights(self, hidden: jax.Array, context: Context, local: bool = False) -> jax.Array:
        """The attention weights before dropout, float32 [batch, heads, query, key], by plain XLA whatever the kernel.

        Args:
          hidden, context, local: as of `__call__`.
        """
        query, key, _ = self._projected(hidden, context, local)
        bias, terms = None, 1
        if self.spec.has_relative_positions:
            bias = self._distance_scores(query, key, context.distances, None)
            terms = self.spec.relative_score_terms
        return weights(query, key, self._visibility(context, local), bias, terms)

    def _visibility(self, context, local):
        return context.visibility.within(self.spec.local_window // 2) if local else context.visibility

    def _projected(self, hidden, context, local, queries=None):
        """Queries, keys and values, [batch, heads, sequence, head_size]."""
        query = self._heads(self.query(hidden if queries is None else queries))
        value = self._heads(self.value(hidden))
        # The key's bias adds the same to all scores of a query where places do not enter, which the softmax takes away
        # again: left out, its gradient is zero and not rounding.
        plain = not (self.spec.has_rotary_positions or self.spec.has_relative_positions)
        key = self._heads(self.key.unbiased(hidden) if plain else self.key(hidden))
        rotation = context.local_rotation if local else context.rotation
        if rotation is not None:
            query, key = rotated(query, rotation), rotated(key, rotation)
        return query, *(constrained(self._for_all_queries(x), "heads") for x in (key, value))

    def _distance_scores(self, query, key, distances, seed):
        """The terms of the scores that positions enter, float32 [batch, heads, query, key], before they are scaled."""
        spec, sequence = self.spec, query.shape[2]
        rows = rows_of_distances(spec, sequence)  # of each distance from 1 - sequence to sequence - 1
        distances = dropout(distances, spec.hidden_dropout, seed).astype(query.dtype)[None]
        scores = jnp.zeros((1, 1, 1, 1), jnp.float32)
        product = functools.partial(jnp.einsum, "bnqd,ntd->bnqt", preferred_element_type=jnp.float32)
        if "c2p" in spec.relative_terms:
            keys = self.key if spec.relative_shared else self.position_key
            of_distance = self._for_all_queries(self._split(keys(distances)))[0][:, rows]
            scores = scores + by_key(product(query, of_distance))
        if "p2c" in spec.relative_terms:
            queries = self.query if spec.relative_shared else self.position_query
            # The j-th key, scored by the query of its distance from each query's place: that of i - j at j - i.
            of_distance = self._split(queries(distances))[0][:, rows[::-1]]
            scores = scores + by_key(product(key, of_distance)).swapaxes(2, 3)
        return scores

    def _heads(self, x):
        """[batch, sequence, heads x head_size] -> [batch, heads, sequence, head_size]."""
        return constrained(self._split(x), "heads")

    def _split(self, x):
        return x.reshape(*x.shape[:2], -1, self.spec.head_size).transpose(0, 2, 1, 3)

    def _for_all_queries(self, x):
        """Heads of keys or values as many times as they serve a head of queries."""
        times = self.spec.num_heads // self.spec.num_kv_heads
        return x if times == 1 else jnp.repeat(x, times, axis=1)


def context_of(spec: Spec, batch: Mapping, distances: jax.Array | None = None) -> Context:
    """What the layers of a model know of a batch's rows.

    Args:
      spec: the model's.
      batch: attention_mask [batch, sequence]; where rows are packed, sequence_ids and position_ids of the same shape.
      distances: the table of relative distances [rows, hidden], of a model that has one.
    """
    visibility = Visibility(batch["attention_mask"] != 0, batch.get("sequence_ids"), causal=spec.attention == "causal")
    if not spec.has_rotary_positions:
        return Context(visibility, distances=distances)
    # Only differences count, so that packed rows could count on through their sequences; from 0 each they are what the
    # unpacked rows are, to the bit.
    places = batch.get("position_ids")
    if places is None:
        places = jnp.arange(batch["attention_mask"].shape[1], dtype=jnp.int32)[None]
    rotation = rotations(places, spec.head_size, spec.rotary_base)
    local = rotations(places, spec.head_size, spec.local_rotary_base) if spec.local_window else None
    return Context(visibility, rotation, local, distances)


def kernel_of(spec: Spec, sequence_length: int, visibility: Visibility, dropping: bool) -> str:
    """The kernel of one call, "xla" or a name of kernels.FUSED.

    Args:
      spec: the model's; its attention_kernel "auto" is resolved here, as not every call allows the same.
      sequence_length: tokens a row.
      visibility: of the rows.
      dropping: whether attention weights are dropped at the spec's rate.

    Raises:
      UserError: the spec names a kernel that cannot do it.
    """
    if spec.has_relative_positions:
        return "xla"
    kernel = resolve_kernel(
        spec.attention_kernel,
        platform=spec.platform,
        dtype=spec.dtype,
        head_size=spec.head_size,
        sequence_length=sequence_length,
        dropout=spec.attention_dropout if dropping else 0.0,
    )
    if visibility.reach is not None and kernel != "splash":
        return "xla"  # whose products are of the window alone, which no other kernel's are
    if kernel != "cudnn" or visibility.padding_last or not spec.task:
        return kernel
    # Fine-tuning maps over seeds, and the batching rule of cuDNN's attention takes no mask.
    if spec.attention_kernel == "cudnn":
        raise UserError(
            "config.model.attention_kernel: found cudnn, but it cannot fine-tune on packed rows, nor with windows or "
            "rotary positions; expected auto or xla, or of learned positions config.data.packing=False"
        )
    return "xla"
