"""Compares texts by the vectors of their tokens on the device: MaxSim, and the nearest documents by it.

Texts are padded to few shapes, some thousand documents at a time. Scores are computed in float32.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax.inference.search import power_of_two

_PRODUCTS = 1 << 24  # products of a token of a query and one of a document that are in memory at once
_QUERIES = 32  # queries that are compared at once


def scores(queries: Sequence[np.ndarray], documents: Sequence[np.ndarray], kind: str) -> np.ndarray:
    """Returns the similarity of queries and documents, float32 [queries, documents].

    Args:
      queries, documents: float32 [tokens, size] of each text.
      kind: "maxsim", the sum over the query's tokens of the largest dot product with one of the document's (Khattab &
        Zaharia 2020, equation 3), or "meanmaxsim", its mean.
    """
    result = np.zeros((len(queries), len(documents)), np.float32)
    for rows, query_vectors, query_mask in _padded(queries, _QUERIES):
        width = query_mask.size
        longest = power_of_two(max(map(len, documents), default=1))
        for columns, vectors, mask in _padded(documents, max(1, _PRODUCTS // (width * longest))):
            values = np.asarray(_scores(query_vectors, query_mask, vectors, mask))
            result[np.ix_(rows, columns)] = values[: len(rows), : len(columns)]
    if kind == "meanmaxsim":
        result /= np.array([len(array) for array in queries], np.float32)[:, None]
    return result


def nearest(
    queries: Sequence[np.ndarray],
    documents: Sequence[np.ndarray],
    top_k: int,
    kind: str,
    places: np.ndarray,
    best: np.ndarray,
    first: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest documents of each query among those so far and some more, the nearest first.

    Args:
      queries, documents, kind: see `scores`.
      top_k: how many documents are wanted.
      places, best: int64 and float64 [queries, k], the nearest documents so far and their scores.
      first: place of the first of `documents`.

    Returns:
      int64 and float64 [queries, k], where k is top_k or, while they are fewer, all. Equal scores come in the order of
      the places.
    """
    new = scores(queries, documents, kind).astype(np.float64)
    new_places = np.broadcast_to(np.arange(first, first + len(documents)), new.shape)
    all_places, all_scores = np.concatenate([places, new_places], axis=1), np.concatenate([best, new], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :top_k]
    return np.take_along_axis(all_places, order, axis=1), np.take_along_axis(all_scores, order, axis=1)


def _padded(texts, at_once):
    """Yields (numbers of some texts, the longest first; their vectors [n, tokens, size]; which of them are real)."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    for begin in range(0, len(order), at_once):
        members = order[begin : begin + at_once]
        length = power_of_two(len(texts[members[0]]))
        shape = (power_of_two(len(members)), length, texts[members[0]].shape[1])
        vectors, mask = np.zeros(shape, np.float32), np.zeros(shape[:2], bool)
        for row, i in enumerate(members):
            vectors[row, : len(texts[i])] = texts[i]
            mask[row, : len(texts[i])] = True
        yield members, vectors, mask


@jax.jit
def _scores(queries, query_mask, documents, document_mask):
    products = jnp.einsum("qtd,nsd->qtns", queries, documents, precision=jax.lax.Precision.HIGHEST)
    largest = jnp.where(document_mask[None, None], products, -jnp.inf).max(-1)
    return jnp.where(query_mask[:, :, None], largest, 0.0).sum(1)
