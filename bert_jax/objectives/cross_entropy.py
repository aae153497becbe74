"""Computes the cross-entropy of given logits, and of a vocabulary whose logits are computed a chunk at a time."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from bert_jax.model.layouts import BATCH_AXES, active_mesh, constrain, num_shards


@jax.custom_vjp
def token_cross_entropy(logits, labels):
    """Returns the cross-entropy of each label, and how far its logit lies below the largest.

    Args:
      logits: float32 [..., classes].
      labels: int32 [...].

    Returns:
      (nats, largest logit - the label's logit), both float32 [...]; the second is 0 where the prediction is right.
    """
    return _token_cross_entropy_forward(logits, labels)[0]


def _token_cross_entropy_forward(logits, labels):
    largest = logits.max(-1)
    log_normaliser = largest + jnp.log(jnp.exp(logits - largest[..., None]).sum(-1))
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return (log_normaliser - chosen, largest - chosen), (logits, labels, log_normaliser)


def _token_cross_entropy_backward(saved, cotangents):
    logits, labels, log_normaliser = saved
    gradient = jnp.exp(logits - log_normaliser[..., None]) - _is_label(labels, logits).astype(logits.dtype)
    return gradient * cotangents[0][..., None], None


token_cross_entropy.defvjp(_token_cross_entropy_forward, _token_cross_entropy_backward)


def chunks_of(batch: int, slots: int, chunk: int) -> tuple[int, int, int]:
    """Returns (shards, chunks, size): predictions [batch, slots] are computed `size` of each shard at a time.

    A shard is the rows that a device holds, so no row moves. All chunks have one size, at most `chunk`.
    """
    mesh = active_mesh()
    shards = num_shards(mesh, BATCH_AXES) if mesh is not None else 1
    shards = shards if batch % shards == 0 else 1
    predictions = batch // shards * slots  # predictions in a shard
    number = -(-predictions // min(chunk or predictions, predictions))
    return shards, number, -(-predictions // number)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def chunked_cross_entropy(features, embedding, bias, labels, weights, chunk):
    """Sums weights x cross-entropy and weights x (the prediction is right); float32 scalars.

    At most `chunk` predictions' logits exist on a device at any time, forward and backward: the gradient with respect
    to the logits is known as soon as they are, up to the factor of the sum's own gradient, so one pass does both.

    Args:
      features: the decoder's input, [batch, slots, hidden] in the compute dtype.
      embedding: float32 [vocabulary, hidden]; logits are features @ embedding.T + bias.
      bias: float32 [vocabulary].
      labels, weights: int32 and float32 [batch, slots].
      chunk: number of predictions of a device, at least 1.
    """
    body = functools.partial(_losses_of_chunk, *_decoder(features, embedding, bias))
    _, (losses, right) = jax.lax.scan(
        lambda _, rows: (None, body(*rows)[:2]), None, _chunks(chunk, features, labels, weights)
    )
    return losses.sum(), right.sum()


def _chunked_forward(features, embedding, bias, labels, weights, chunk):
    decoder = _decoder(features, embedding, bias)
    table = decoder[0]
    rows = _chunks(chunk, features, labels, weights)
    shards, size = rows[0].shape[1:3]
    ones = jnp.ones((shards, size), jnp.float32)

    def body(totals, rows):
        x = rows[0]
        losses, right, by_logits = _losses_of_chunk(*decoder, *rows)
        narrow = by_logits.astype(x.dtype)
        by_x = jnp.einsum("scv,vh->sch", narrow, table)
        by_table = jnp.einsum("sch,scv->shv", x, narrow, preferred_element_type=jnp.float32)
        by_bias = jnp.einsum("sc,scv->sv", ones, by_logits)
        totals = jax.tree.map(jnp.add, totals, (by_table, by_bias))
        return _apart(*totals), (losses, right, by_x)

    # Each shard sums its own part in float32; the parts are added once, after the loop.
    zeros = jnp.zeros((shards, *embedding.shape[::-1]), jnp.float32), jnp.zeros((shards, *bias.shape), jnp.float32)
    totals, (losses, right, by_x) = jax.lax.scan(body, _apart(*zeros), rows)
    by_features = by_x.swapaxes(0, 1).reshape(shards, -1, features.shape[-1])
    by_features = by_features[:, : features.size // shards // features.shape[-1]].reshape(features.shape)
    saved = constrain(by_features, "hidden"), constrain(totals[0].sum(0).T, "vocabulary_gradient"), totals[1].sum(0)
    return (losses.sum(), right.sum()), saved


def _chunked_backward(chunk, saved, cotangents):
    by_features, by_embedding, by_bias = saved
    scale = cotangents[0]
    return by_features * scale.astype(by_features.dtype), by_embedding * scale, by_bias * scale, None, None


chunked_cross_entropy.defvjp(_chunked_forward, _chunked_backward)


def _decoder(features, embedding, bias):
    # Gathered once, not in every iteration.
    return constrain(embedding.astype(features.dtype), "vocabulary"), bias[None, None]


def _losses_of_chunk(table, bias, x, labels, weights):
    """Returns weighted losses and right predictions [shards, chunk], and the gradient of their sum by the logits."""
    logits = jnp.einsum("sch,vh->scv", x, table, preferred_element_type=jnp.float32)
    logits = constrain(logits + bias, "logits")
    is_label = _is_label(labels, logits)
    largest = logits.max(-1)
    log_normaliser = largest + jnp.log(jnp.exp(logits - largest[..., None]).sum(-1))
    chosen = jnp.where(is_label, logits, 0.0).sum(-1)  # no lookup: the vocabulary may be split among devices
    by_logits = (jnp.exp(logits - log_normaliser[..., None]) - is_label.astype(logits.dtype)) * weights[..., None]
    return (log_normaliser - chosen) * weights, (chosen == largest).astype(jnp.float32) * weights, by_logits


def _chunks(chunk, *arrays):
    """Cuts arrays [batch, slots, ...] into [chunks, shards, size, ...]; the last chunk is filled with zeros."""
    batch, slots = arrays[0].shape[:2]
    shards, number, size = chunks_of(batch, slots, chunk)
    missing = number * size - batch // shards * slots

    def cut(array):
        array = array.reshape(shards, -1, *array.shape[2:])
        array = jnp.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2))
        return array.reshape(shards, number, size, *array.shape[2:]).swapaxes(0, 1)

    return _laid_out([cut(array) for array in arrays], None, BATCH_AXES)


def _apart(by_table, by_bias):
    return _laid_out(by_table, BATCH_AXES, None, "tensor"), _laid_out(by_bias, BATCH_AXES, "tensor")


def _laid_out(tree, *layout):
    """Places the shards of each array on the devices that hold their rows."""
    shards = jax.tree.leaves(tree)[0].shape[layout.index(BATCH_AXES)]
    return tree if shards == 1 else jax.lax.with_sharding_constraint(tree, P(*layout))


def _is_label(labels, logits):
    return labels[..., None] == jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
