"""Softmax attention: plain XLA, and the fused kernels of TPUs (splash, flash) and GPUs (cuDNN).

All take queries, keys and values [batch, heads, sequence, head_size] and a Visibility, and give
[batch, heads, sequence, head_size]. What each can do is in bert_jax.config.kernels.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.model.layers import dropout
from bert_jax.model.layouts import LAYOUTS, ROWS, parts, split_mesh

_LEAST_BLOCK = 64  # queries of a windowed product: fewer make small products, more score pairs that are out of reach
RESULTS = "attention_results"  # what a fused kernel keeps for its backward pass, to remat policies


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visibility:
    """Which tokens of a row may see each other.

    Attributes:
      present: bool [batch, sequence], False at padding, which may stand anywhere and which no token sees. What
        attention gives at padding is of no meaning.
      sequence_ids: int32 [batch, sequence] where rows are packed: a token sees its own sequence alone.
      causal: whether a token sees those before it and itself alone.
      reach: how many places away on either side a token sees another; None: any number.
      padding_last: whether padding is known to stand at the end of each row.
    """

    present: jax.Array
    sequence_ids: jax.Array | None = None
    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    reach: int | None = dataclasses.field(default=None, metadata={"static": True})
    padding_last: bool = dataclasses.field(default=False, metadata={"static": True})

    def with_padding_last(self, order: jax.Array) -> "Visibility":
        """That of the same rows in the first order of `padding_last`, [batch, sequence]; causality stays as it is."""
        return dataclasses.replace(self, present=jnp.take_along_axis(self.present, order, axis=1), padding_last=True)

    def within(self, reach: int) -> "Visibility":
        """The same with a window: of tokens at most `reach` places away."""
        return dataclasses.replace(self, reach=reach)

    def mask(self) -> jax.Array:
        """bool [batch, 1, query or 1, key]; True where the query may see the key."""
        mask = self.present[:, None, None, :]
        if self.sequence_ids is not None:
            mask = mask & (self.sequence_ids[:, None, :, None] == self.sequence_ids[:, None, None, :])
        if self.causal or self.reach is not None:
            places = np.arange(self.present.shape[1])
            mask = mask & self.allows(places[:, None], places)[None, None]
        return mask

    def allows(self, query: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Whether places in a row are near enough, and not hidden by causality; bool, of the two broadcast."""
        near = np.abs(query - key) <= (np.iinfo(np.int32).max if self.reach is None else self.reach)
        return near & (key <= query) if self.causal else near

    def segments(self) -> jax.Array:
        """int32 [batch, sequence], equal where tokens may see each other; padding is a segment of its own, 0."""
        present = self.present.astype(jnp.int32)
        return present if self.sequence_ids is None else present * self.sequence_ids


def xla(
    query,
    key,
    value,
    visibility: Visibility,
    rate: float = 0.0,
    seed: jax.Array | None = None,
    bias: jax.Array | None = None,
    terms: int = 1,
) -> jax.Array:
    """The reference: scores, softmax in float32, weights, all of them in memory; of a window, those near it alone.

    Args:
      query, key, value: [batch, heads, sequence, head_size].
      visibility: of the rows.
      rate, seed: of the dropout of the attention weights; a seed of None for none.
      bias, terms: as of `weights`.
    """
    if visibility.reach is not None and bias is None and query.shape[2] > 3 * _window_block(visibility.reach):
        return windowed(query, key, value, visibility, rate, seed)
    kept = dropout(weights(query, key, visibility, bias, terms), rate, seed).astype(value.dtype)
    return jnp.einsum("bnqk,bnkd->bnqd", kept, value)


def weights(query, key, visibility: Visibility, bias: jax.Array | None = None, terms: int = 1) -> jax.Array:
    """How much each query takes from each key's value, float32 [batch, heads, query, key]; a query's add up to 1.

    Args:
      query, key: [batch, heads, sequence, head_size].
      visibility: of the rows.
      bias: added to the product of query and key before it is scaled, [batch, heads, query, key].
      terms: of which the scores are the sum, each with a variance of head_size.
    """
    scores = jnp.einsum("bnqd,bnkd->bnqk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        scores = scores + bias
    scores = jnp.where(visibility.mask(), scores / math.sqrt(query.shape[-1] * terms), -1e30)
    return jax.nn.softmax(scores, axis=-1)


def windowed(query, key, value, visibility: Visibility, rate: float = 0.0, seed: jax.Array | None = None) -> jax.Array:
    """As `xla`, of a window: time and memory grow with sequence x window (Beltagy et al. 2020, section 3.1).

    Rows are cut into blocks of queries, each of which is scored against its own keys and those within reach before and
    behind it.
    """
    reach, sequence = visibility.reach, query.shape[2]
    block = _window_block(reach)
    blocks = -(-sequence // block)
    filled = blocks * block - sequence

    def cut(x, axis):  # into blocks of queries
        shape = (*x.shape[:axis], blocks, block, *x.shape[axis + 1 :])
        return jnp.pad(x, [(0, filled if i == axis else 0) for i in range(x.ndim)]).reshape(shape)

    def around(x, axis):  # what is within reach of each block, [..., blocks, reach + block + reach, ...]
        x = cut(x, axis)
        before = jax.lax.slice_in_dim(x, block - reach, block, axis=axis + 1)
        behind = jax.lax.slice_in_dim(x, 0, reach, axis=axis + 1)
        return jnp.concatenate([_shifted(before, 1, axis), x, _shifted(behind, -1, axis)], axis=axis + 1)

    scores = jnp.einsum("bncqd,bnckd->bncqk", cut(query, 2), around(key, 2), preferred_element_type=jnp.float32)
    near = visibility.allows(np.arange(block)[:, None], np.arange(-reach, block + reach))
    mask = around(visibility.present, 1)[:, None, :, None, :] & near[None, None, None]
    if visibility.sequence_ids is not None:
        ids = visibility.sequence_ids
        mask = mask & (cut(ids, 1)[:, None, :, :, None] == around(ids, 1)[:, None, :, None, :])
    scores = jnp.where(mask, scores / math.sqrt(query.shape[-1]), -1e30)
    kept = dropout(jax.nn.softmax(scores, axis=-1), rate, seed).astype(value.dtype)
    mixed = jnp.einsum("bncqk,bnckd->bncqd", kept, around(value, 2))
    return mixed.reshape(*query.shape[:2], -1, value.shape[-1])[:, :, :sequence]


def _shifted(blocks, by, axis):
    """Blocks moved along their axis, zeros (no token) where none comes from."""
    padding = [(0, 0)] * blocks.ndim
    padding[axis] = (1, 0) if by > 0 else (0, 1)
    start, stop = (0, -1) if by > 0 else (1, None)
    return jnp.pad(jax.lax.slice_in_dim(blocks, start, stop, axis=axis), padding)


def _window_block(reach):
    return max(reach, _LEAST_BLOCK)


def splash(query, key, value, visibility: Visibility) -> jax.Array:
    """The splash attention of jax.experimental.pallas.ops.tpu."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as library
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, sequence, head_size = query.shape[1:]
    block, wide = _block(sequence, 512), _block(sequence, 1024)
    # One kernel for all gradients computes the scores once, not twice. It adds up the queries' gradient over blocks
    # of keys in memory, which is free where one block is the row.
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
    shape, reach = (sequence, sequence), visibility.reach
    if reach is None:
        mask = (masks.CausalMask if visibility.causal else masks.FullMask)(shape)
    else:
        mask = masks.LocalMask(shape, window_size=(reach, 0 if visibility.causal else reach), offset=0)
    attention = library.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        residual_checkpoint_name=RESULTS,
    )
    # The kernel does not scale its scores.
    query = (query.astype(jnp.float32) * head_size**-0.5).astype(query.dtype)
    segments = visibility.segments()
    return jax.vmap(attention)(query, key, value, library.SegmentIds(segments, segments))


def flash(query, key, value, visibility: Visibility) -> jax.Array:
    """The flash attention of jax.experimental.pallas.ops.tpu."""
    from jax.experimental.pallas.ops.tpu import flash_attention as library

    sequence, head_size = query.shape[2:]
    block, segments = _block(sequence, 512), visibility.segments()
    names = [field.name for field in dataclasses.fields(library.BlockSizes)]
    return library.flash_attention(
        query,
        key,
        value,
        segment_ids=library.SegmentIds(segments, segments),
        causal=visibility.causal,
        sm_scale=head_size**-0.5,
        block_sizes=library.BlockSizes(**{name: 1 if name == "block_b" else block for name in names}),
    )


def cudnn(query, key, value, visibility: Visibility) -> jax.Array:
    """cuDNN's flash attention, by lengths where padding is known to stand at the end of rows, else by a mask."""
    masking = {"is_causal": visibility.causal}
    if visibility.padding_last:
        # Under vmap the lengths must have the query's axes, as the kernel's batching rule folds those of all operands
        # alike: hence the zeros. A row of padding alone has one key, so that nothing is divided by zero.
        zeros = 0 * query[:, 0, 0, 0].astype(jnp.int32)
        masking["query_seq_lengths"] = query.shape[2] + zeros
        masking["key_value_seq_lengths"] = jnp.maximum(visibility.present.sum(1, dtype=jnp.int32), 1) + zeros
    else:
        mask = visibility.mask()
        masking = {"mask": jnp.broadcast_to(mask, (*mask.shape[:2], query.shape[2], mask.shape[3]))}
    # [batch, sequence, heads, head_size] is what the projections gave: the two transposes cancel.
    query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn", **masking).swapaxes(1, 2)


def padding_last(present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two orders for `reordered`, int32 [batch, sequence]: one moves each row's padding to its end, one moves it back.

    The order of the other tokens stays, so that causal attention sees what it saw.
    """
    order = jnp.argsort(~present, axis=1, stable=True).astype(jnp.int32)
    return order, jnp.argsort(order, axis=1).astype(jnp.int32)


def reordered(hidden: jax.Array, order: jax.Array) -> jax.Array:
    """[batch, sequence, hidden] with the tokens of each row in another order, [batch, sequence]."""
    # No place is taken twice, and the backward pass may know it.
    return jax.vmap(lambda x, order: x.at[order].get(unique_indices=True, mode="promise_in_bounds"))(hidden, order)


FUSED = {"splash": splash, "flash": flash, "cudnn": cudnn}


def attend(
    kernel: str,
    query,
    key,
    value,
    visibility: Visibility,
    rate: float = 0.0,
    seed: jax.Array | None = None,
    bias: jax.Array | None = None,
    terms: int = 1,
):
    """Attention by the kernel of a name, each device with its own rows and heads of the ambient mesh.

    Args:
      kernel: "xla", or a name of FUSED, which do no dropout and know no bias.
      query, key, value, visibility, rate, seed, bias, terms: as `xla` takes them.
    """
    mesh = split_mesh()
    if mesh is not None and (query.shape[0] % parts(mesh, ROWS) or key.shape[1] % parts(mesh, "tensor")):
        kernel = "xla"  # such as the few rows of a sample; the layouts of a run are checked before it
    if kernel == "xla":
        return xla(query, key, value, visibility, rate, seed, bias, terms)
    run = FUSED[kernel]
    if mesh is None:
        return run(query, key, value, visibility)
    # The compiler cannot split a kernel, so it is told how.
    heads, rows = LAYOUTS["heads"], LAYOUTS["hidden"]
    return jax.shard_map(run, in_specs=(heads, heads, heads, rows), out_specs=heads, check_vma=False)(
        query, key, value, visibility
    )


@functools.cache
def _block(size, at_most):
    """The largest multiple of 128 that divides a multiple of 128 and is at most `at_most`."""
    return max(block for block in range(128, at_most + 1, 128) if size % block == 0)
