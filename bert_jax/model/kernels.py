"""Computes softmax attention: plain XLA, and the fused kernels of TPUs (splash, flash) and GPUs (cuDNN).

Every kernel takes queries, keys and values [batch, heads, sequence, head_size] and an AttentionMask, and returns
[batch, heads, sequence, head_size]. bert_jax.config.kernels lists what each kernel supports.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import _moved
from bert_jax.model.dropout import attention_index, dropout, row_numbers
from bert_jax.model.layouts import BATCH_AXES, LAYOUTS, active_mesh, num_shards
from bert_jax.processes import private_jax

# Queries in a block of windowed attention: smaller blocks make small products, larger ones score pairs outside the
# window.
_LEAST_BLOCK = 64
RESULTS = "attention_results"  # the name that remat policies know a fused kernel's saved results by


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """States which tokens of a row may attend to which.

    Attributes:
      present: bool [batch, sequence], False at padding, which may stand anywhere in a row and which no token attends
        to. The attention output at padding is undefined unless `padding_is_read`.
      sequence_ids: int32 [batch, sequence] for packed rows, in which tokens attend within their own sequence only;
        None for rows of one text.
      causal: whether a token attends only to itself and to the tokens before it.
      window: the largest distance, on either side, between a token and one that it attends to; None for no limit.
      padding_last: whether padding is known to stand at the end of each row.
      padding_is_read: whether padding attends to the tokens of its row, of one text, as [MASK] behind a query does in
        late interaction; where the window holds none, its output is 0, as in torch's scaled_dot_product_attention.
      global_positions: positions of the tokens that see all others of their sequence and are seen by them, whatever
        the window, int32 [batch, k], -1 for none; None for rows without such tokens.
    """

    present: jax.Array
    sequence_ids: jax.Array | None = None
    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    window: int | None = dataclasses.field(default=None, metadata={"static": True})
    padding_last: bool = dataclasses.field(default=False, metadata={"static": True})
    padding_is_read: bool = dataclasses.field(default=False, metadata={"static": True})
    global_positions: jax.Array | None = None

    def with_padding_last(self, order: jax.Array) -> "AttentionMask":
        """Returns the mask of the same rows with padding moved to the end; causality is unaffected.

        Args:
          order: int32 [batch, sequence], the first result of `padding_last_order`.
        """
        return dataclasses.replace(self, present=jnp.take_along_axis(self.present, order, axis=1), padding_last=True)

    @_moved.renamed_arguments(reach="window")
    def with_window(self, window: int) -> "AttentionMask":
        """Returns the same mask, limited to tokens at most `window` positions away."""
        return dataclasses.replace(self, window=window)

    def to_array(self) -> jax.Array:
        """Returns bool [batch, 1, query or 1, key], True where the query may attend to the key."""
        allowed = self.present[:, None, None, :]
        if self.sequence_ids is not None:
            allowed = allowed & (self.sequence_ids[:, None, :, None] == self.sequence_ids[:, None, None, :])
        if self.causal or self.window is not None:
            positions = np.arange(self.present.shape[1])
            near = self.allows(positions[:, None], positions)[None, None]
            if self.window is not None and self.global_positions is not None:
                is_global = self.is_global()
                near = near | is_global[:, None, None, :] | is_global[:, None, :, None]
                near = near & ((positions <= positions[:, None])[None, None] | (not self.causal))
            allowed = allowed & near
        return allowed

    def is_global(self) -> jax.Array:
        """Returns whether each token is a global one, bool [batch, sequence]."""
        assert self.global_positions is not None
        places = jnp.arange(self.present.shape[1], dtype=jnp.int32)
        return (self.global_positions[:, :, None] == places[None, None]).any(1)

    def allows(self, query: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Returns whether the window and causality let a query at one position attend to a key at another.

        Args:
          query, key: int, positions in a row, of shapes that broadcast.

        Returns:
          bool, of the broadcast shape.
        """
        near = np.abs(query - key) <= (np.iinfo(np.int32).max if self.window is None else self.window)
        return near & (key <= query) if self.causal else near

    def segments(self) -> jax.Array:
        """Returns int32 [batch, sequence], equal for tokens that may attend to each other, and 0 at padding."""
        present = self.present.astype(jnp.int32)
        return present if self.sequence_ids is None else present * self.sequence_ids

    def query_segments(self) -> jax.Array:
        """Returns `segments` of the tokens as queries, int32 [batch, sequence]; padding that is read has its row's."""
        return jnp.ones_like(self.segments()) if self.padding_is_read else self.segments()

    def reaches_a_token(self) -> jax.Array:
        """Returns whether window, causality and global tokens leave a query any key, bool [batch, sequence]."""
        length, window = self.present.shape[1], self.present.shape[1] if self.window is None else self.window
        before = jnp.pad(jnp.cumsum(self.present.astype(jnp.int32), axis=1), ((0, 0), (1, 0)))
        positions = np.arange(length)
        last = positions if self.causal else np.minimum(positions + window, length - 1)
        reached = before[:, last + 1] > before[:, np.maximum(positions - window, 0)]
        if self.global_positions is None:
            return reached
        farthest = positions if self.causal else np.full(length, length - 1)
        places = self.global_positions[:, None, :]
        return reached | ((places >= 0) & (places <= farthest[None, :, None])).any(2)

    within, mask = with_window, to_array  # the methods' names in earlier versions

    @property
    def reach(self) -> int | None:
        """Returns `window`, under its name in earlier versions."""
        return self.window


@_moved.renamed_arguments(visibility="mask", terms="num_terms")
def xla(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    rate: float = 0.0,
    seed: jax.Array | None = None,
    bias: jax.Array | None = None,
    num_terms: int = 1,
) -> jax.Array:
    """Returns attention outputs by plain products: scores, a softmax in float32, and a weighted sum of the values.

    Scores of all pairs are held in memory, or with a window those of nearby pairs only.

    Args:
      query, key, value: [batch, heads, sequence, head_size].
      mask: which tokens attend to which.
      rate: dropout rate of the attention weights.
      seed: dropout seed, uint32 [2]; None for no dropout.
      bias, num_terms: see `attention_weights`.

    Returns:
      [batch, heads, sequence, head_size] in the values' dtype.
    """
    if mask.window is not None and bias is None and query.shape[2] > 3 * _window_block(mask.window):
        return windowed_attention(query, key, value, mask, rate, seed)
    kept = dropout(attention_weights(query, key, mask, bias, num_terms), rate, seed).astype(value.dtype)
    return jnp.einsum("bnqk,bnkd->bnqd", kept, value)


@_moved.renamed_arguments(visibility="mask", terms="num_terms")
def attention_weights(
    query: jax.Array, key: jax.Array, mask: AttentionMask, bias: jax.Array | None = None, num_terms: int = 1
) -> jax.Array:
    """Returns attention weights, float32 [batch, heads, query, key]; those of each query sum to 1.

    Args:
      query, key: [batch, heads, sequence, head_size].
      mask: which tokens attend to which.
      bias: float32 [batch, heads, query, key], added to the product of query and key before scaling.
      num_terms: number of terms in an attention score, each with a variance of head_size; scores are divided by
        sqrt(head_size x num_terms).
    """
    scores = jnp.einsum("bnqd,bnkd->bnqk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    scores = jnp.where(mask.to_array(), scores / math.sqrt(query.shape[-1] * num_terms), -1e30)
    return jax.nn.softmax(scores, axis=-1)


@_moved.renamed_arguments(visibility="mask")
def windowed_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    rate: float = 0.0,
    seed: jax.Array | None = None,
) -> jax.Array:
    """Returns what `xla` does for a mask with a window, in time and memory that grow with sequence x window.

    Rows are cut into blocks of queries (Beltagy et al. 2020, section 3.1); each block is scored against its own keys,
    those within the window before and behind it, and those of the global tokens. The outputs of global tokens
    themselves are those of other tokens (see global_tokens.py for what they see).

    Args:
      query, key, value, rate, seed: see `xla`.
      mask: with a window.

    Returns:
      [batch, heads, sequence, head_size] in the values' dtype.
    """
    window, sequence = mask.window, query.shape[2]
    assert window is not None
    block = _window_block(window)
    blocks = -(-sequence // block)
    missing = blocks * block - sequence

    def cut(x, axis):  # [..., sequence, ...] -> [..., blocks, block, ...]
        shape = (*x.shape[:axis], blocks, block, *x.shape[axis + 1 :])
        return jnp.pad(x, [(0, missing if i == axis else 0) for i in range(x.ndim)]).reshape(shape)

    def around(x, axis):  # [..., sequence, ...] -> [..., blocks, window + block + window (+ k), ...]
        chosen = [] if mask.global_positions is None else [_in_blocks(x, mask.global_positions, axis, blocks)]
        x = cut(x, axis)
        before = jax.lax.slice_in_dim(x, block - window, block, axis=axis + 1)
        wrapped = jax.lax.slice_in_dim(x, 0, window, axis=axis + 1)
        parts = [_shift_blocks(before, 1, axis), x, _shift_blocks(wrapped, -1, axis)]
        return jnp.concatenate(parts + chosen, axis=axis + 1)

    scores = jnp.einsum("bncqd,bnckd->bncqk", cut(query, 2), around(key, 2), preferred_element_type=jnp.float32)
    near = mask.allows(np.arange(block)[:, None], np.arange(-window, block + window))
    places = jnp.broadcast_to(jnp.arange(sequence, dtype=jnp.int32), mask.present.shape)
    allowed = around(mask.present, 1)
    if mask.global_positions is not None:  # keys of all blocks, and once each: not also where they are near
        size, count = near.shape[1], mask.global_positions.shape[1]
        is_chosen = jnp.pad(mask.global_positions >= 0, ((0, 0), (size, 0)))[:, None]
        is_behind = (np.arange(size + count) >= size)[None, None]
        allowed = allowed & jnp.where(is_behind, is_chosen, ~around(mask.is_global(), 1))
        near = np.pad(near, ((0, 0), (0, count)), constant_values=True)
    allowed = allowed[:, None, :, None, :] & near[None, None, None]
    if mask.global_positions is not None and mask.causal:
        allowed = allowed & (around(places, 1)[:, None, :, None, :] <= cut(places, 1)[:, None, :, :, None])
    if mask.sequence_ids is not None:
        ids = mask.sequence_ids
        allowed = allowed & (cut(ids, 1)[:, None, :, :, None] == around(ids, 1)[:, None, :, None, :])
    scores = jnp.where(allowed, scores / math.sqrt(query.shape[-1]), -1e30)
    kept = jax.nn.softmax(scores, axis=-1)
    if seed is not None:  # the bits of the same weights in `xla`
        row = row_numbers(seed, query.shape[0]).reshape(-1, 1, 1, 1, 1)
        head = jnp.arange(query.shape[1], dtype=jnp.int32).reshape(1, -1, 1, 1, 1)
        own, other = cut(places, 1)[:, None, :, :, None], around(places, 1)[:, None, :, None, :]
        kept = dropout(kept, rate, seed, attention_index(row, head, own, other))
    kept = kept.astype(value.dtype)
    mixed = jnp.einsum("bncqk,bnckd->bncqd", kept, around(value, 2))
    return mixed.reshape(*query.shape[:2], -1, value.shape[-1])[:, :, :sequence]


def _shift_blocks(blocks, offset, axis):
    """Moves blocks by one place along their axis; zeros, which are no token, fill the free place."""
    padding = [(0, 0)] * blocks.ndim
    padding[axis] = (1, 0) if offset > 0 else (0, 1)
    start, stop = (0, -1) if offset > 0 else (1, None)
    return jnp.pad(jax.lax.slice_in_dim(blocks, start, stop, axis=axis), padding)


def _in_blocks(x, positions, axis, blocks):
    """Returns what stands at each row's positions, for each block: [..., sequence, ...] -> [..., blocks, k, ...]."""
    places = jnp.maximum(positions, 0).reshape(-1, *[1] * (axis - 1), positions.shape[1], *[1] * (x.ndim - axis - 1))
    chosen = jnp.expand_dims(jnp.take_along_axis(x, places, axis=axis), axis)
    return jnp.broadcast_to(chosen, (*chosen.shape[:axis], blocks, *chosen.shape[axis + 1 :]))


def _window_block(window):
    return max(window, _LEAST_BLOCK)


@_moved.renamed_arguments(visibility="mask")
def splash(query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask) -> jax.Array:
    """Returns attention outputs by the splash attention of jax.experimental, [batch, heads, sequence, head_size].

    Args:
      query, key, value, mask: see `xla`.
    """
    library, splash_masks = private_jax.splash_attention()
    heads, sequence, head_size = query.shape[1:]
    block, wide = _block(sequence, 512), _block(sequence, 1024)
    # One kernel for all gradients computes the scores once, not twice. It adds up the queries' gradient in memory
    # over blocks of keys, which is free where one block is the row.
    fused = wide == sequence
    sizes = library.BlockSizes(
        block_q=block,
        block_kv=wide,
        block_kv_compute=_block(wide, 512),
        block_q_dkv=block,
        block_kv_dkv=wide,
        block_kv_dkv_compute=_block(wide, 512),
        block_q_dq=None if fused else block,
        block_kv_dq=None if fused else wide,
        use_fused_bwd_kernel=fused,
    )
    shape, window = (sequence, sequence), mask.window
    if window is None:
        pattern = (splash_masks.CausalMask if mask.causal else splash_masks.FullMask)(shape)
    else:
        pattern = splash_masks.LocalMask(shape, window_size=(window, 0 if mask.causal else window), offset=0)
    attention = library.make_splash_mha(
        splash_masks.MultiHeadMask([pattern] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        residual_checkpoint_name=RESULTS,
    )
    # The kernel does not scale its scores.
    query = (query.astype(jnp.float32) * head_size**-0.5).astype(query.dtype)
    attended = jax.vmap(attention)(query, key, value, library.SegmentIds(mask.query_segments(), mask.segments()))
    assert isinstance(attended, jax.Array)  # alone, without the sums that it is asked for elsewhere
    return attended


@_moved.renamed_arguments(visibility="mask")
def flash(query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask) -> jax.Array:
    """Returns attention outputs by the flash attention of jax.experimental, [batch, heads, sequence, head_size].

    Args:
      query, key, value, mask: see `xla`.
    """
    library = private_jax.flash_attention()
    sequence, head_size = query.shape[2:]
    block = _block(sequence, 512)
    names = [field.name for field in dataclasses.fields(library.BlockSizes)]
    return library.flash_attention(
        query,
        key,
        value,
        segment_ids=library.SegmentIds(mask.query_segments(), mask.segments()),
        causal=mask.causal,
        sm_scale=head_size**-0.5,
        block_sizes=library.BlockSizes(**{name: 1 if name == "block_b" else block for name in names}),
    )


@_moved.renamed_arguments(visibility="mask")
def cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: AttentionMask) -> jax.Array:
    """Returns attention outputs by cuDNN's flash attention, [batch, heads, sequence, head_size].

    The kernel gets the lengths of rows where padding is known to stand at their end, otherwise a dense mask.

    Args:
      query, key, value, mask: see `xla`.
    """
    options: dict[str, Any] = {"is_causal": mask.causal}
    if mask.padding_last:
        # Under vmap the lengths must have the query's axes, as the kernel's batching rule folds those of all operands
        # alike: hence the zeros. A row of padding alone has one key, so that nothing is divided by zero.
        zeros = 0 * query[:, 0, 0, 0].astype(jnp.int32)
        options["query_seq_lengths"] = query.shape[2] + zeros
        options["key_value_seq_lengths"] = jnp.maximum(mask.present.sum(1, dtype=jnp.int32), 1) + zeros
    else:
        allowed = mask.to_array()
        options = {"mask": jnp.broadcast_to(allowed, (*allowed.shape[:2], query.shape[2], allowed.shape[3]))}
    # The projections gave [batch, sequence, heads, head_size]: the two transposes cancel.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn", **options).swapaxes(1, 2)


def padding_last_order(present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns two orders for `reorder`: one moves each row's padding to its end, the other moves it back.

    The order of the other tokens is kept, so that causal attention is unaffected.

    Args:
      present: bool [batch, sequence], False at padding.

    Returns:
      Two int32 arrays [batch, sequence].
    """
    order = jnp.argsort(~present, axis=1, stable=True).astype(jnp.int32)
    return order, jnp.argsort(order, axis=1).astype(jnp.int32)


def reorder(hidden: jax.Array, order: jax.Array) -> jax.Array:
    """Returns [batch, sequence, hidden] with each row's tokens permuted.

    Args:
      hidden: [batch, sequence, hidden].
      order: int32 [batch, sequence], the position that each token is taken from.
    """
    # No position is taken twice, and the backward pass may know it.
    return jax.vmap(lambda x, order: x.at[order].get(unique_indices=True, mode="promise_in_bounds"))(hidden, order)


def repeat_heads(x: jax.Array, head_size: int, times: int) -> jax.Array:
    """Returns [..., heads x times x head_size], each head of [..., heads x head_size] so many times in a row."""
    heads = x.reshape(*x.shape[:-1], -1, head_size)
    return jnp.repeat(heads, times, axis=-2).reshape(*x.shape[:-1], -1)


FUSED = {"splash": splash, "flash": flash, "cudnn": cudnn}


@_moved.renamed_arguments(visibility="mask", terms="num_terms")
def attend(
    kernel: str,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: AttentionMask,
    rate: float = 0.0,
    seed: jax.Array | None = None,
    bias: jax.Array | None = None,
    num_terms: int = 1,
) -> jax.Array:
    """Returns attention outputs by the named kernel, each device of the active mesh computing its own rows and heads.

    Args:
      kernel: "xla", or a key of FUSED; fused kernels support neither dropout nor `bias`.
      query, key, value, mask, rate, seed, bias, num_terms: see `xla`.

    Returns:
      [batch, heads, sequence, head_size] in the values' dtype.
    """
    attended = _attend(kernel, query, key, value, mask, rate, seed, bias, num_terms)
    return with_unreached(attended.swapaxes(1, 2), mask).swapaxes(1, 2) if mask.padding_is_read else attended


def with_unreached(attended: jax.Array, mask: AttentionMask) -> jax.Array:
    """Returns attention outputs, [batch, sequence, ...], zero at padding that is read where it reaches no token."""
    if not mask.padding_is_read or mask.window is None:
        return attended
    reached = mask.reaches_a_token().reshape(*attended.shape[:2], *[1] * (attended.ndim - 2))
    return jnp.where(reached, attended, jnp.zeros((), attended.dtype))


def splits_evenly(rows: int, heads: int) -> bool:
    """Returns whether each device of the active mesh has as many rows and heads as the others.

    Few rows, such as a sample's, may not; a run checks its own layout before it starts.
    """
    mesh = active_mesh()
    return mesh is None or not (rows % num_shards(mesh, BATCH_AXES) or heads % num_shards(mesh, "tensor"))


def _attend(kernel, query, key, value, mask, rate, seed, bias, num_terms):
    if kernel == "xla" or not splits_evenly(query.shape[0], key.shape[1]):
        return xla(query, key, value, mask, rate, seed, bias, num_terms)
    run = FUSED[kernel]
    if active_mesh() is None:
        return run(query, key, value, mask)
    # The compiler cannot split a kernel over devices by itself.
    heads, rows = LAYOUTS["heads"], LAYOUTS["hidden"]
    return jax.shard_map(run, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)(
        query, key, value, mask
    )


@functools.cache
def _block(size, at_most):
    """Returns the largest multiple of 128 that divides `size`, a multiple of 128, and is at most `at_most`."""
    return max(block for block in range(128, at_most + 1, 128) if size % block == 0)


def __getattr__(name: str):
    return _moved.find("model.kernels", name)
