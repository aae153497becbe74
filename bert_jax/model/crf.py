"""A linear-chain conditional random field over the labels of a text's words (Lafferty et al. 2001).

log p(labels) = first[l_1] + sum of logits[t, l_t] + sum of transitions[l_t-1, l_t] + last[l_n] - log Z, as in Lample et
al. 2016, section 2.2. The chain runs over the positions that a mask names, wherever they stand in the row.
"""

import jax
import jax.numpy as jnp


def log_likelihood(
    logits: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    transitions: jax.Array,
    first: jax.Array,
    last: jax.Array,
) -> jax.Array:
    """log p(labels) of each row, in nats, float32 [batch]; 0 for a row without a position.

    Args:
      logits: float32 [batch, sequence, labels].
      labels: int32 [batch, sequence]; not read outside the mask.
      mask: bool [batch, sequence], True at the chain's positions.
      transitions: float32 [from, to].
      first, last: float32 [labels], of the labels that a chain begins and ends with.
    """
    labels = jnp.where(mask, labels, 0)
    transitions, first, last = jnp.asarray(transitions), jnp.asarray(first), jnp.asarray(last)

    def advance(carry, inputs):
        alpha, score, before, begun = carry  # log sums over all chains so far by their last label; the given chain
        emitted, label, here = inputs
        arrived = jax.nn.logsumexp(alpha[:, :, None] + transitions[None], axis=1)
        new_alpha = jnp.where(begun[:, None], arrived, first[None]) + emitted
        step = jnp.where(begun, transitions[before, label], first[label])
        new_score = score + step + jnp.take_along_axis(emitted, label[:, None], axis=1)[:, 0]
        carry = (
            jnp.where(here[:, None], new_alpha, alpha),
            jnp.where(here, new_score, score),
            jnp.where(here, label, before),
            begun | here,
        )
        return carry, None

    start = _start(logits)
    carry = (start, start[:, 0], jnp.zeros_like(labels[:, 0]), jnp.zeros_like(mask[:, 0]))
    (alpha, score, before, begun), _ = jax.lax.scan(advance, carry, _by_position(logits, labels, mask))
    total = score + last[before] - jax.nn.logsumexp(alpha + last[None], axis=1)
    return jnp.where(begun, total, 0.0)


def decode(
    logits: jax.Array, mask: jax.Array, transitions: jax.Array, first: jax.Array, last: jax.Array
) -> jax.Array:
    """The likeliest labels of each row, int32 [batch, sequence], by Viterbi; 0 outside the mask. See log_likelihood."""
    same = jnp.broadcast_to(jnp.arange(logits.shape[2])[None], (logits.shape[0], logits.shape[2]))

    def advance(carry, inputs):
        best, begun = carry  # scores of the best chains so far by their last label
        emitted, here = inputs
        through = best[:, :, None] + transitions[None]
        new = jnp.where(begun[:, None], through.max(1), first[None]) + emitted
        came_from = jnp.where((here & begun)[:, None], through.argmax(1), same)
        return (jnp.where(here[:, None], new, best), begun | here), came_from

    carry = (_start(logits), jnp.zeros_like(mask[:, 0]))
    (best, _), came_from = jax.lax.scan(advance, carry, _by_position(logits, mask))

    def retrace(label, came_from):
        return jnp.take_along_axis(came_from, label[:, None], axis=1)[:, 0], label

    _, labels = jax.lax.scan(retrace, (best + last[None]).argmax(1), came_from, reverse=True)
    return jnp.where(mask, labels.swapaxes(0, 1), 0).astype(jnp.int32)


def _start(logits):
    return jnp.zeros_like(logits[:, 0])


def _by_position(*arrays):
    """[batch, sequence, ...] to [sequence, batch, ...], as scan takes them."""
    return tuple(array.swapaxes(0, 1) for array in arrays)
