"""Computes a linear-chain conditional random field over the labels of a text's words (Lafferty et al. 2001).

log p(labels) = first[l_1] + sum of logits[t, l_t] + sum of transitions[l_t-1, l_t] + last[l_n] - log Z, as in Lample et
al. 2016, section 2.2. The chain runs over the positions that a mask selects, wherever they stand in the row. A packed
row holds one chain for each sequence: where one chain ends and the next begins, last[l] + first[l'] takes the place of
a transition, so that the row's log-likelihood is the sum of its chains'.
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
    sequence_ids: jax.Array | None = None,
) -> jax.Array:
    """Returns log p(labels) of each row in nats, float32 [batch]; 0 for a row whose mask is empty.

    Args:
      logits: float32 [batch, sequence, labels].
      labels: int32 [batch, sequence]; unused outside the mask.
      mask: bool [batch, sequence], True at the chain's positions.
      transitions: float32 [labels, labels], scores of going from a label to the next.
      first, last: float32 [labels], scores of beginning and ending with a label.
      sequence_ids: int32 [batch, sequence] of packed rows; None for rows of one chain.
    """
    labels = jnp.where(mask, labels, 0)
    transitions, first, last = jnp.asarray(transitions), jnp.asarray(first), jnp.asarray(last)

    def advance(carry, inputs):
        # alpha: log sums over all chains so far, by last label; score, before: for the given chain so far
        alpha, score, before, begun = carry
        emitted, label, in_chain, anew = inputs
        arrived = jax.nn.logsumexp(alpha[:, :, None] + _moves(anew, transitions, first, last), axis=1)
        new_alpha = jnp.where(begun[:, None], arrived, first[None]) + emitted
        within = jnp.where(anew, last[before] + first[label], transitions[before, label])
        step = jnp.where(begun, within, first[label])
        new_score = score + step + jnp.take_along_axis(emitted, label[:, None], axis=1)[:, 0]
        carry = (
            jnp.where(in_chain[:, None], new_alpha, alpha),
            jnp.where(in_chain, new_score, score),
            jnp.where(in_chain, label, before),
            begun | in_chain,
        )
        return carry, None

    start = _start(logits)
    carry = (start, start[:, 0], jnp.zeros_like(labels[:, 0]), jnp.zeros_like(mask[:, 0]))
    inputs = _by_position(logits, labels, mask, _begins_anew(mask, sequence_ids))
    (alpha, score, before, begun), _ = jax.lax.scan(advance, carry, inputs)
    total = score + last[before] - jax.nn.logsumexp(alpha + last[None], axis=1)
    return jnp.where(begun, total, 0.0)


def decode(
    logits: jax.Array,
    mask: jax.Array,
    transitions: jax.Array,
    first: jax.Array,
    last: jax.Array,
    sequence_ids: jax.Array | None = None,
) -> jax.Array:
    """Returns the most likely labels of each row by the Viterbi algorithm, int32 [batch, sequence]; 0 outside the mask.

    Args:
      logits: float32 [batch, sequence, labels].
      mask, transitions, first, last, sequence_ids: see `log_likelihood`.
    """
    transitions, first, last = jnp.asarray(transitions), jnp.asarray(first), jnp.asarray(last)
    same = jnp.broadcast_to(jnp.arange(logits.shape[2])[None], (logits.shape[0], logits.shape[2]))

    def advance(carry, inputs):
        best, begun = carry  # score of the best chain so far for each last label
        emitted, in_chain, anew = inputs
        through = best[:, :, None] + _moves(anew, transitions, first, last)
        new = jnp.where(begun[:, None], through.max(1), first[None]) + emitted
        came_from = jnp.where((in_chain & begun)[:, None], through.argmax(1), same)
        return (jnp.where(in_chain[:, None], new, best), begun | in_chain), came_from

    carry = (_start(logits), jnp.zeros_like(mask[:, 0]))
    (best, _), came_from = jax.lax.scan(advance, carry, _by_position(logits, mask, _begins_anew(mask, sequence_ids)))

    def retrace(label, came_from):
        return jnp.take_along_axis(came_from, label[:, None], axis=1)[:, 0], label

    _, labels = jax.lax.scan(retrace, (best + last[None]).argmax(1), came_from, reverse=True)
    return jnp.where(mask, labels.swapaxes(0, 1), 0).astype(jnp.int32)


def _moves(anew, transitions, first, last):
    """Returns scores [batch, from, to] of going from a label to the next within a chain or across two chains."""
    return jnp.where(anew[:, None, None], (last[:, None] + first[None, :])[None], transitions[None])


def _begins_anew(mask, sequence_ids):
    """Returns bool [batch, sequence], True where a position's sequence is not that of the chain position before it."""
    if sequence_ids is None:
        return jnp.zeros(mask.shape, bool)
    reached = jax.lax.cummax(jnp.where(mask, sequence_ids, 0), axis=1)  # sequences are numbered in order
    before = jnp.roll(reached, 1, axis=1).at[:, 0].set(0)
    return before != sequence_ids


def _start(logits):
    return jnp.zeros_like(logits[:, 0])


def _by_position(*arrays):
    """Swaps [batch, sequence, ...] to [sequence, batch, ...] for a scan over positions."""
    return tuple(array.swapaxes(0, 1) for array in arrays)
