"""Ranks documents by their vectors, and scores rankings: nDCG, MRR, MAP and recall as BEIR and trec_eval compute them.

Gains are those of trec_eval's ndcg_cut: the grade itself over log2(rank + 1).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

_AT_ONCE = 256  # queries that are compared at once
DEPTH = 100  # documents of a ranking
METRICS = ("ndcg@10", "mrr@10", "map@100", "recall@1", "recall@10", "recall@100", "accuracy@1")


def nearest(queries: np.ndarray, documents: np.ndarray, depth: int = DEPTH, excluded: Sequence[int] = ()) -> np.ndarray:
    """Returns the documents nearest to each query by dot product, int64 [queries, at most depth], the nearest first.

    Equal scores come in the order of the documents.

    Args:
      queries: float32 [queries, size].
      documents: float32 [documents, size].
      depth: length of a ranking.
      excluded: for each query a document that is left out, -1 for none; () for none at all.

    Where a ranking would hold all documents, -1 stands at its end for the one that is left out.
    """
    return best(lambda rows: queries[rows] @ documents.T, len(queries), len(documents), depth, excluded)


def best(
    scores_of: Callable[[slice], np.ndarray],
    num_queries: int,
    num_documents: int,
    depth: int = DEPTH,
    excluded: Sequence[int] = (),
) -> np.ndarray:
    """Returns the documents of the highest scores for each query, int64 [queries, at most depth]; see `nearest`.

    Args:
      scores_of: returns the scores of some queries, float [queries, documents], a new array.
      num_queries, num_documents: how many there are.
      depth, excluded: see `nearest`.
    """
    depth = min(depth, num_documents)
    ranked = np.zeros((num_queries, depth), np.int64)
    for start in range(0, num_queries, _AT_ONCE):
        scores = scores_of(slice(start, min(start + _AT_ONCE, num_queries)))
        if len(excluded):
            places = np.asarray(excluded[start : start + _AT_ONCE])
            scores[np.flatnonzero(places >= 0), places[places >= 0]] = -np.inf
        else:
            places = np.full(len(scores), -1)
        if depth < scores.shape[1]:
            thresholds = -np.partition(-scores, depth - 1, axis=1)[:, depth - 1 : depth]
            for i, row in enumerate(scores):
                candidates = np.flatnonzero(row >= thresholds[i])
                ranked[start + i] = candidates[np.argsort(-row[candidates], kind="stable")[:depth]]
        else:
            order = np.argsort(-scores, axis=1, kind="stable")
            left_out = (order == places[:, None]) & (places >= 0)[:, None]
            kept_first = np.argsort(left_out, axis=1, kind="stable")
            ranked[start : start + len(scores)] = np.take_along_axis(np.where(left_out, -1, order), kept_first, axis=1)
    return ranked


def score(ranked: Sequence[np.ndarray] | np.ndarray, relevance: Sequence[Mapping[int, float]]) -> dict[str, float]:
    """Returns means over the queries: ndcg@10, mrr@10, map@100, recall@1, recall@10, recall@100 and accuracy@1.

    recall@k is the share of a query's relevant documents among the first k; accuracy@1 the share of queries whose
    nearest document is relevant. Queries without a relevant document are left out, as by trec_eval.

    Args:
      ranked: documents of each query by their numbers, int [queries, depth] or arrays of any depth, the nearest first.
      relevance: for each query, grade by document; grades over 0 are relevant.
    """
    columns: dict[str, list[float]] = {name: [] for name in METRICS}
    for row, grades in zip(ranked, relevance, strict=True):
        grades = {document: grade for document, grade in grades.items() if grade > 0}
        if not grades:
            continue
        gains = np.array([grades.get(document, 0.0) for document in row.tolist()])
        hits, ideal = gains > 0, np.sort(list(grades.values()))[::-1][:10]
        discounts = 1 / np.log2(np.arange(2, 12))
        first = np.flatnonzero(hits[:10])
        columns["ndcg@10"].append(float(gains[:10] @ discounts[: len(gains[:10])] / (ideal @ discounts[: len(ideal)])))
        columns["mrr@10"].append(1 / (1 + int(first[0])) if len(first) else 0.0)
        precision = np.cumsum(hits[:100]) / np.arange(1, len(hits[:100]) + 1)
        columns["map@100"].append(float((precision * hits[:100]).sum() / len(grades)))
        for depth in (1, 10, 100):
            columns[f"recall@{depth}"].append(float(hits[:depth].sum() / len(grades)))
        columns["accuracy@1"].append(float(hits[:1].any()))
    return {name: float(np.mean(values)) if values else 0.0 for name, values in columns.items()}
