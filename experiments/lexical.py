"""Ranks documents by the words that they share with a query: BM25 and TF-IDF, which embedders are measured beside."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from scipy import sparse

K1, B = 1.2, 0.75  # in BM25 (Robertson & Zaragoza 2009, section 3.5: common values)
_AT_ONCE = 256  # queries whose scores are held together


def bm25(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Returns the weight of each word in each document, from its counts [documents, words] (Robertson et al. 1994)."""
    lengths = np.asarray(counts.sum(1)).ravel()
    weights = counts.tocoo()
    norm = K1 * (1 - B + B * lengths[weights.row] / lengths.mean())
    values = weights.data * (K1 + 1) / (weights.data + norm) * _rarity(counts)[weights.col]
    return sparse.csr_matrix((values, (weights.row, weights.col)), counts.shape)


def tf_idf(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Returns counts [documents, words] times the words' rarity, each document scaled to length 1.

    A word's rarity is squared here, once for the document and once for the query, whose words count by their number.
    """
    rarity = _rarity(counts)
    weights = counts.multiply(rarity).tocsr()
    lengths = np.sqrt(np.asarray(weights.multiply(weights).sum(1)).ravel())
    return sparse.diags(1 / np.maximum(lengths, 1e-12)) @ weights.multiply(rarity).tocsr()


WEIGHTS = {"BM25": bm25, "TF-IDF": tf_idf}


def nearest(queries: Sequence[str], documents: Sequence[str], depth: int, weigh: Callable) -> np.ndarray:
    """Returns the documents with the highest scores for each query, int64 [queries, depth]; ties in their order.

    Args:
      queries, documents: texts; words are runs of letters and digits in lower case.
      depth: length of a ranking, at most the number of documents.
      weigh: one of WEIGHTS.
    """
    words: dict[str, int] = {}
    counts = _counts(documents, lambda word: words.setdefault(word, len(words)), words)
    weights = weigh(counts).T.tocsr()
    query_counts = _counts(queries, words.get, words)
    ranked = np.zeros((len(queries), depth), np.int64)
    for first in range(0, len(queries), _AT_ONCE):
        scores = (query_counts[first : first + _AT_ONCE] @ weights).toarray()
        ranked[first : first + len(scores)] = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return ranked


def _rarity(counts):
    """Returns log(1 + (N - n + 0.5) / (n + 0.5)) of each word, as Lucene has it, where n of N documents have it."""
    documents = np.bincount(counts.indices, minlength=counts.shape[1])
    return np.log1p((counts.shape[0] - documents + 0.5) / (documents + 0.5))


def _counts(texts, number_of, words):
    """Returns how often each text has each word, [texts, words]; words that `number_of` does not know are left out."""
    rows, columns = [], []
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            number = number_of(word)
            if number is not None:
                rows.append(row)
                columns.append(number)
    shape = (len(texts), len(words))
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape)  # duplicates are added
