"""Computes losses on the scores of a query's documents: sums over a batch, and the counts that they are divided by.

A row holds the documents of a query; those that are not `present` fill it up. The losses are those of
sentence-transformers' CrossEncoder, in nats.
"""

import dataclasses

import jax
import jax.numpy as jnp

_MASKED = -1e30
# Indices that make [queries, documents, 1] and [queries, 1, documents] of [queries, documents].
_ROWS, _COLUMNS = (slice(None), slice(None), None), (slice(None), None, slice(None))


@dataclasses.dataclass(frozen=True)
class Judgements:
    """States what is known about the documents of each query.

    Attributes:
      targets: relevance, or a teacher's scores, float32 [queries, documents].
      relevant: 1.0 for relevant documents, float32 [queries, documents]; read by margin_mse alone.
      present: 1.0 for documents, 0.0 for those that fill a row up, float32 [queries, documents].
    """

    targets: jax.Array
    relevant: jax.Array
    present: jax.Array


def loss(
    kind: str, scores: jax.Array, judgements: Judgements, positive_weight: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of losses, number that it is divided by), float32 scalars; the number depends on no score.

    Args:
      kind: one of these.
        bce: binary cross-entropy of each document, for targets from 0 to 1.
        mse: squared error of each document.
        listwise: cross-entropy of the softmax of a query's scores and its relevant documents, a share of the targets'
          sum each (Bruch et al. 2019).
        listnet: cross-entropy of the softmax of the scores and that of the targets (Cao et al. 2007).
        kl: Kullback-Leibler divergence of these, the targets being a teacher's scores.
        ranknet: logistic loss of each pair of documents with different targets (Burges et al. 2005).
        lambdarank: the same, weighted by what exchanging the two changes in nDCG (Burges 2010).
        margin_mse: squared difference of the margin of a relevant and another document and the teacher's margin
          (Hofstaetter et al. 2020).
      scores: logits, float32 [queries, documents].
      judgements: what is known about the documents.
      positive_weight: bce: factor of the loss of relevance.
    """
    return LOSSES[kind](scores, judgements, positive_weight)


def _bce(scores, judgements, positive_weight):
    targets, present = judgements.targets, judgements.present
    losses = -positive_weight * targets * jax.nn.log_sigmoid(scores) - (1 - targets) * jax.nn.log_sigmoid(-scores)
    return (losses * present).sum(), present.sum()


def _mse(scores, judgements, _):
    return (jnp.square(scores - judgements.targets) * judgements.present).sum(), judgements.present.sum()


def _listwise(scores, judgements, _):
    real = judgements.present > 0
    logarithms = _log_softmax(scores, real)
    relevance = jnp.where(real, judgements.targets, 0.0)
    total = relevance.sum(-1, keepdims=True)
    wanted = relevance / jnp.where(total > 0, total, 1.0)
    return _sum_and_count(-(wanted * logarithms).sum(-1), total[:, 0] > 0)


def _listnet(scores, judgements, _):
    real = judgements.present > 0
    logarithms = _log_softmax(scores, real)
    wanted = jnp.where(real, jnp.exp(_log_softmax(judgements.targets, real)), 0.0)
    return _sum_and_count(-(wanted * logarithms).sum(-1), real.any(-1))


def _kl(scores, judgements, _):
    real = judgements.present > 0
    logarithms = _log_softmax(scores, real)
    wanted = jnp.where(real, jnp.exp(_log_softmax(judgements.targets, real)), 0.0)
    losses = -(wanted * logarithms).sum(-1)
    losses += (wanted * jnp.where(real, _log_softmax(judgements.targets, real), 0.0)).sum(-1)
    return _sum_and_count(losses, real.any(-1))


def _margin_mse(scores, judgements, _):
    margins, wanted, real_pairs = _margins(scores, judgements)
    relevant = judgements.relevant > 0
    return _sum_and_count(jnp.square(margins - wanted), real_pairs & relevant[:, :, None] & ~relevant[:, None, :])


def _ranknet(scores, judgements, _):
    margins, wanted, real_pairs = _margins(scores, judgements)
    return _sum_and_count(-jax.nn.log_sigmoid(margins), real_pairs & (wanted > 0))


def _lambdarank(scores, judgements, _):
    margins, wanted, real_pairs = _margins(scores, judgements)
    losses = -jax.nn.log_sigmoid(margins) * _changes_of_ndcg(scores, judgements.targets, judgements.present > 0)
    return _sum_and_count(losses, real_pairs & (wanted > 0))


def _margins(scores, judgements):
    """Returns the differences of all pairs of a query's documents: (of scores, of targets, whether both are there)."""
    real, targets = judgements.present > 0, judgements.targets
    margins = scores[:, :, None] - scores[:, None, :]
    return margins, targets[:, :, None] - targets[:, None, :], real[:, :, None] & real[:, None, :]


def _sum_and_count(losses, counted):
    return jnp.where(counted, losses, 0.0).sum(), counted.sum().astype(jnp.float32)


# Value of config.loss.name -> (sum, count) of scores, judgements and positive_weight; see `loss`.
LOSSES = {
    "bce": _bce,
    "mse": _mse,
    "listwise": _listwise,
    "listnet": _listnet,
    "kl": _kl,
    "margin_mse": _margin_mse,
    "ranknet": _ranknet,
    "lambdarank": _lambdarank,
}


def best_is_relevant(scores: jax.Array, judgements: Judgements) -> tuple[jax.Array, jax.Array]:
    """Returns (number of queries whose best-scored document has the highest target, number of queries).

    Both are float32 scalars; see `loss` for the arguments.
    """
    real = judgements.present > 0
    best = jnp.where(real, scores, -jnp.inf).argmax(-1)
    highest = jnp.where(real, judgements.targets, -jnp.inf).max(-1)
    right = jnp.take_along_axis(judgements.targets, best[:, None], axis=-1)[:, 0] >= highest
    counted = real.any(-1)
    return (right & counted).sum().astype(jnp.float32), counted.sum().astype(jnp.float32)


def _log_softmax(values, real):
    """Returns the logarithms of the softmax over the documents that are there; 0 for others."""
    return jnp.where(real, jax.nn.log_softmax(jnp.where(real, values, _MASKED), axis=-1), 0.0)


def _changes_of_ndcg(scores, targets, real):
    """Returns by how much nDCG changes where two documents are exchanged, [queries, documents, documents].

    Gains are 2^target - 1, discounts the logarithm of 1 + rank to base 2. No gradient goes through the ranks.
    """
    size = scores.shape[-1]
    places = jnp.arange(size, dtype=jnp.int32)
    row_scores, column_scores = (
        jnp.where(real, jax.lax.stop_gradient(scores), -jnp.inf)[index] for index in (_ROWS, _COLUMNS)
    )
    is_earlier = places[None, None, :] < places[None, :, None]
    ranked_before = (column_scores > row_scores) | ((column_scores == row_scores) & is_earlier)
    discounts = 1 / jnp.log2(2.0 + ranked_before.sum(-1).astype(jnp.float32))
    gains = jnp.where(real, jnp.exp2(targets) - 1, 0.0)
    ideal = (-jnp.sort(-gains, axis=-1) / jnp.log2(2.0 + places.astype(jnp.float32))[None]).sum(-1)
    gains /= jnp.maximum(ideal, 1e-10)[:, None]
    return jnp.abs(discounts[_ROWS] - discounts[_COLUMNS]) * jnp.abs(gains[_ROWS] - gains[_COLUMNS])
