"""Computes losses on the vectors of texts: sums over all anchors of a batch, and the counts that they are divided by.

Every loss is computed from the vectors of the whole batch, wherever they were computed, so that it is the same number
for any mesh and any number of parts (`training.cached_gradients`).
"""

import dataclasses

import jax
import jax.numpy as jnp

_MASKED = -1e30
_PRODUCTS = 1 << 24  # products of a query's token and a document's that are in memory at once, on all devices together


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Holds the positive of each anchor of a batch, and the candidates that are its negatives.

    Attributes:
      positives: index of each anchor's positive among the candidates, int32 [anchors].
      allowed: whether a candidate takes part for an anchor, bool [anchors, candidates]; the positives' entries are not
        read. False negatives (known positives of the anchor, duplicates of its positive) are left out here.
      weights: 1.0 for an anchor that counts, 0.0 for one that fills up a batch, float32 [anchors].
    """

    positives: jax.Array
    allowed: jax.Array
    weights: jax.Array


def similarities(anchors: jax.Array, candidates: jax.Array, kind: str = "cosine") -> jax.Array:
    """Returns the similarity of every anchor to every candidate, float32 [anchors, candidates].

    Args:
      anchors: [anchors, size].
      candidates: [candidates, size].
      kind: "cosine" or "dot".
    """
    anchors, candidates = anchors.astype(jnp.float32), candidates.astype(jnp.float32)
    if kind == "cosine":
        anchors, candidates = unit(anchors), unit(candidates)
    return jnp.einsum("id,jd->ij", anchors, candidates, precision=jax.lax.Precision.HIGHEST)


def maxsim(queries: jax.Array, documents: jax.Array, query_mask: jax.Array, document_mask: jax.Array) -> jax.Array:
    """Returns the late interaction of every query with every document, float32 [queries, documents].

    It is the sum over the query's tokens of the largest dot product with a token of the document (Khattab & Zaharia
    2020, equation 3); 0 for a document without tokens. Documents are compared a part at a time, and the products of a
    part are computed again for the gradient.

    Args:
      queries: [queries, tokens, size].
      documents: [documents, length, size].
      query_mask, document_mask: tokens that count, bool or int [queries, tokens] and [documents, length].
    """
    counted = query_mask.astype(jnp.float32)

    @jax.checkpoint
    def scores_of(part):
        vectors, mask = part
        products = jnp.einsum("itd,jld->itjl", queries, vectors, precision=jax.lax.Precision.HIGHEST)
        largest = jnp.where(mask[None, None] != 0, products.astype(jnp.float32), _MASKED).max(-1)
        largest = jnp.where((mask != 0).any(-1)[None, None], largest, 0.0)
        return (largest * counted[:, :, None]).sum(1)

    number, length = document_mask.shape
    at_once = max(1, _PRODUCTS // max(1, query_mask.size * length))
    if at_once >= number:
        return scores_of((documents, document_mask))
    missing = -number % at_once

    def cut(array):
        padded = jnp.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)])
        return padded.reshape(-1, at_once, *array.shape[1:])

    parts = jax.lax.map(scores_of, (cut(documents), cut(document_mask)))  # [parts, queries, documents of a part]
    return parts.swapaxes(0, 1).reshape(len(queries), -1)[:, :number]


def maxsim_of_own(
    queries: jax.Array, documents: jax.Array, query_mask: jax.Array, document_mask: jax.Array
) -> jax.Array:
    """Returns the late interaction of each query with documents of its own, float32 [queries, documents]; see `maxsim`.

    Args:
      queries: [queries, tokens, size].
      documents: [queries, documents, length, size].
      query_mask, document_mask: tokens that count, bool or int [queries, tokens] and [queries, documents, length].
    """
    products = jnp.einsum("itd,ijld->ijtl", queries, documents, precision=jax.lax.Precision.HIGHEST)
    largest = jnp.where(document_mask[:, :, None] != 0, products.astype(jnp.float32), _MASKED).max(-1)
    largest = jnp.where((document_mask != 0).any(-1)[:, :, None], largest, 0.0)
    return (largest * query_mask.astype(jnp.float32)[:, None]).sum(-1)


def unit(vectors: jax.Array) -> jax.Array:
    """Returns vectors [..., size] scaled to length 1; zero stays zero."""
    square = jnp.square(vectors).sum(-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def info_nce(scores: jax.Array, contrast: Contrast) -> tuple[jax.Array, jax.Array]:
    """Sums the cross-entropy of each anchor's positive among its candidates (van den Oord et al. 2018, equation 4).

    Args:
      scores: similarities divided by the temperature, float32 [anchors, candidates].
      contrast: the positives, and which candidates take part.

    Returns:
      (sum of losses in nats, number of anchors), float32 scalars.
    """
    chosen = jnp.take_along_axis(scores, contrast.positives[:, None], axis=1)[:, 0]
    numbers = jnp.arange(scores.shape[1], dtype=jnp.int32)
    takes_part = contrast.allowed | (numbers[None] == contrast.positives[:, None])
    total = jax.nn.logsumexp(jnp.where(takes_part, scores, _MASKED), axis=1)
    return ((total - chosen) * contrast.weights).sum(), contrast.weights.sum()


def cosent(scores: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the CoSENT loss of a batch (Su 2022), as sentence-transformers' CoSENTLoss computes it.

    It is log(1 + sum of exp(s_i - s_j)) over all pairs of examples (i, j) whose labels order them y_i < y_j.

    Args:
      scores: similarity of each pair of texts divided by the temperature (0.05 there), float32 [pairs].
      labels: graded similarity of each pair, float32 [pairs].
      weights: 1.0 for pairs that count, 0.0 for those that fill up a batch, float32 [pairs].

    Returns:
      (the loss, 1.0), float32 scalars: it is of a whole batch, not a sum over its pairs.
    """
    real = weights > 0
    ordered = (labels[:, None] < labels[None, :]) & real[:, None] & real[None, :]
    differences = jnp.where(ordered, scores[:, None] - scores[None, :], _MASKED)
    loss = jax.nn.logsumexp(jnp.append(differences.reshape(-1), 0.0))
    return loss, jnp.ones((), jnp.float32)


def cosine_regression(cosines: jax.Array, labels: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums squared differences of cosines and graded similarities (Reimers & Gurevych 2019, section 3).

    Args:
      cosines, labels, weights: float32 [pairs].

    Returns:
      (sum of squared errors, number of pairs), float32 scalars.
    """
    return (jnp.square(cosines - labels) * weights).sum(), weights.sum()


def triplet(
    anchors: jax.Array, positives: jax.Array, negatives: jax.Array, margin: float, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sums max(0, |a - p| - |a - n| + margin) by Euclidean distance (Reimers & Gurevych 2019, section 3).

    Args:
      anchors, positives, negatives: [triplets, size].
      margin: 1 in the paper, 5 in sentence-transformers.
      weights: float32 [triplets].

    Returns:
      (sum of losses, number of triplets), float32 scalars.
    """

    def distance(others):
        square = jnp.square(anchors.astype(jnp.float32) - others.astype(jnp.float32)).sum(-1)
        return jnp.sqrt(jnp.maximum(square, 1e-24))

    losses = jax.nn.relu(distance(positives) - distance(negatives) + margin)
    return (losses * weights).sum(), weights.sum()


def angle_similarities(anchors: jax.Array, others: jax.Array) -> jax.Array:
    """Returns AnglE's similarity of each pair of vectors, float32 [pairs] (Li & Li 2023, section 3.4).

    The halves of a vector are the real and imaginary parts of complex numbers; the similarity is the absolute sum of
    the parts of their quotients, normalised, as in sentence-transformers' `pairwise_angle_sim`.

    Args:
      anchors, others: float32 [pairs, size], with an even size.
    """
    a, b = jnp.split(anchors.astype(jnp.float32), 2, axis=-1)
    c, d = jnp.split(others.astype(jnp.float32), 2, axis=-1)
    square = jnp.maximum(jnp.square(c).sum(-1, keepdims=True) + jnp.square(d).sum(-1, keepdims=True), 1e-24)
    anchor_square = jnp.maximum(jnp.square(a).sum(-1, keepdims=True) + jnp.square(b).sum(-1, keepdims=True), 1e-24)
    parts = jnp.concatenate([a * c + b * d, b * c - a * d], axis=-1) / square
    return jnp.abs((parts * jnp.sqrt(square / anchor_square)).sum(-1))


def pair_features(anchors: jax.Array, others: jax.Array) -> jax.Array:
    """Returns (u, v, |u - v|) of each pair, [pairs, 3 * size] (Reimers & Gurevych 2019, section 3)."""
    return jnp.concatenate([anchors, others, jnp.abs(anchors - others)], axis=-1)


def margin_mse(scores: jax.Array, targets: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums squared differences of margins and a teacher's (Hofstaetter et al. 2020, section 3.1).

    A margin is the score of an anchor's positive, which comes first, less that of a negative.

    Args:
      scores: dot products of anchors and texts, float32 [anchors, texts].
      targets: the teacher's scores, float32 [anchors, texts].
      present: 1.0 for a text that counts, else 0.0, float32 [anchors, texts].

    Returns:
      (sum of squared errors, number of margins), float32 scalars.
    """
    margins, target_margins = (values[:, :1] - values[:, 1:] for values in (scores, targets))
    return (jnp.square(margins - target_margins) * present[:, 1:]).sum(), present[:, 1:].sum()


def divergence(scores: jax.Array, targets: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums the divergences KL(teacher || model) of softmaxes over an anchor's texts (Izacard & Grave 2021, section 3).

    Args:
      scores: similarities of anchors and texts, divided by the temperature, float32 [anchors, texts].
      targets: the teacher's scores, whose softmax is taken as they are, float32 [anchors, texts].
      present: 1.0 for a text that counts, else 0.0, float32 [anchors, texts].

    Returns:
      (sum of divergences in nats, number of anchors with a text), float32 scalars.
    """
    log_shares, log_targets = (
        jax.nn.log_softmax(jnp.where(present > 0, values, _MASKED), axis=-1) for values in (scores, targets)
    )
    terms = jnp.where(present > 0, jnp.exp(log_targets) * (log_targets - log_shares), 0.0)
    counted = present.max(-1)
    return (terms.sum(-1) * counted).sum(), counted.sum()


def regression(vectors: jax.Array, targets: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sums mean squared differences of vectors and a teacher's (Reimers & Gurevych 2020, equation 1).

    Args:
      vectors: vectors of each example's texts, float32 [examples, texts, size].
      targets: the vector that all texts of an example shall have, float32 [examples, size].
      present: 1.0 for a text that counts, else 0.0, float32 [examples, texts].

    Returns:
      (sum of the texts' mean squared differences, number of texts), float32 scalars.
    """
    errors = jnp.square(vectors - targets[:, None]).mean(-1)
    return (errors * present).sum(), present.sum()


def flops(vectors: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns the sum over the columns of their squared mean size, a float32 scalar (Paria et al. 2020, equation 3).

    It grows with the multiplications that comparing such sparse vectors costs.

    Args:
      vectors: [texts, size].
      weights: 1.0 for a text that counts, else 0.0, float32 [texts].
    """
    sizes = jnp.abs(vectors.astype(jnp.float32)) * weights[:, None]
    return jnp.square(sizes.sum(0) / jnp.maximum(weights.sum(), 1.0)).sum()


def may_be_negatives(
    anchor_texts: jax.Array,
    known: jax.Array,
    candidate_texts: jax.Array,
    groups: jax.Array,
    candidate_groups: jax.Array,
) -> jax.Array:
    """Returns which candidates may be negatives of an anchor, bool [anchors, candidates].

    A candidate is left out where it is a known positive or a copy of one, belongs to the anchor's group of positives
    (`relevance_id`), or is the anchor's own text. A candidate of text -1 is none.

    Args:
      anchor_texts, candidate_texts: a number for each distinct text, int32 [anchors], [candidates].
      known: texts that are positives of each anchor, int32 [anchors, k]; -1 is none.
      groups, candidate_groups: number of each text's group, int32 [anchors], [candidates]; -1 is none.
    """
    same_text = anchor_texts[:, None] == candidate_texts[None, :]
    is_known = (known[:, :, None] == candidate_texts[None, None]).any(1)
    same_group = (groups[:, None] == candidate_groups[None, :]) & (groups[:, None] >= 0)
    return ~(same_text | is_known | same_group) & (candidate_texts >= 0)[None]
