"""Scores vectors of texts: graded pairs, retrieval, pair classification, clustering, and ranking of given documents."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from bert_jax.data import hashing
from bert_jax.data.tasks import clustering, metrics, ranking
from bert_jax.data.tasks.late_interaction import TokenVectors

_SHOWN = 3  # documents in a prediction


class TextStore(Protocol):
    """Stores different texts by number; data.tasks.vector_sets.Texts is one."""

    tokenizer: Any
    lengths: np.ndarray
    texts: list[str]

    def add(self, text: str, prompt: str = "", is_query: bool = False) -> int:
        """Returns the number of a text behind a prompt; late interaction reads queries otherwise than documents."""
        ...

    def encode(self) -> None:
        """Prepares `lengths` and `texts`, once all texts were added."""
        ...

    def batch(self, numbers: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns the arrays of some texts, int32 [texts, length], and skipped, int32 [texts]."""
        ...


class NumberedTexts:
    """Numbers different texts, each behind its prompt, in the order in which they are added."""

    def __init__(self):
        self._numbers: dict[tuple[str, str], int] = {}

    def add(self, text: str, prompt: str = "", is_query: bool = False) -> int:
        """Returns the number of a text behind a prompt; queries and documents are read alike."""
        del is_query
        return self._numbers.setdefault((prompt, text), len(self._numbers))


class Vectors(abc.ABC):
    """Holds texts whose vectors are scored: a row for each different text; see data.tasks.Examples.

    Where vectors are said to be float32 [texts, size], they may also be TokenVectors, whose MaxSim takes the place of
    dot products. The first text of a pair is then the query.

    Attributes:
      metrics: names of the scores; the first chooses the best checkpoint unless config.task.metric does.
      baseline: that score of equal vectors; nan where there is none.
    """

    others: Sequence[Mapping[str, Any]] = ()
    metrics: tuple[str, ...]
    baseline: float

    def __init__(self, texts: TextStore):
        self.tokenizer, self._texts, self.lengths = texts.tokenizer, texts, texts.lengths
        self.texts = texts.texts

    def batch(self, rows: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Returns input_ids, attention_mask, token_type_ids int32 [batch, length], skipped, and weights [batch]."""
        rows = np.asarray(rows)
        return self._texts.batch(rows, length) | {"weights": (rows >= 0).astype(np.float32)}

    @abc.abstractmethod
    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns the metrics of vectors, float32 [texts, size]; they have length 1 unless dot products are meant."""

    @abc.abstractmethod
    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields an object for each example; vectors float32 [texts, size]."""


class Similarity(Vectors):
    """Holds pairs of texts with graded similarities.

    Args:
      texts: the encoded texts.
      pairs: numbers of the texts of each pair, int [pairs, 2].
      scores: float [pairs].
      records: other columns of each pair.
    """

    metrics = ("spearman", "pearson")
    baseline = 0.0

    def __init__(
        self, texts: TextStore, pairs: np.ndarray, scores: np.ndarray, others: Sequence[Mapping[str, Any]] = ()
    ):
        super().__init__(texts)
        self._pairs, self._scores, self.others = pairs, scores, others

    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns Spearman's and Pearson's correlation of scores and dot products of vectors [texts, size]."""
        correlations = metrics.regression(self._scores, paired_products(vectors, self._pairs))
        return {name: correlations[name] for name in self.metrics}

    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields text, text_pair, gold and score of each pair; vectors float32 [texts, size]."""
        products = paired_products(vectors, self._pairs)
        for (first, second), gold, score in zip(self._pairs, self._scores, products, strict=True):
            texts = {"text": self.texts[first], "text_pair": self.texts[second]}
            yield texts | {"gold": float(gold), "score": float(score)}


class Retrieval(Vectors):
    """Holds queries, documents, and which of them answer a query.

    Args:
      texts: the encoded texts.
      queries, documents: numbers of texts.
      relevance: for each query, grade by place in `documents`.
      same: for each query, the place of a document that is left out, or -1; () for none.
    """

    metrics = ranking.METRICS
    baseline = float("nan")

    def __init__(
        self,
        texts: TextStore,
        queries: Sequence[int],
        documents: Sequence[int],
        relevance: Sequence[Mapping[int, float]],
        same: Sequence[int] = (),
    ):
        super().__init__(texts)
        self._queries, self._documents = np.asarray(queries), np.asarray(documents)
        self._relevance, self._same = relevance, same

    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns ranking.METRICS of the documents ranked by dot products of vectors [texts, size]."""
        return ranking.score(self._ranked(vectors), self._relevance)

    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields text of each query, gold (its documents), rank of the first of them, and the nearest documents.

        Args:
          vectors: float32 [texts, size].
        """
        ranked = self._ranked(vectors)
        for query, row, grades in zip(self._queries, ranked.tolist(), self._relevance, strict=True):
            places = [i for i, document in enumerate(row, 1) if grades.get(document, 0) > 0]
            nearest = [
                {"text": self.texts[self._documents[document]],
                 "score": float(_products(vectors, query, self._documents[[document]])[0])}
                for document in row[:_SHOWN]
            ]  # fmt: skip
            gold = [self.texts[self._documents[document]] for document, grade in grades.items() if grade > 0]
            rank = places[0] if places else None
            yield {"text": self.texts[query], "gold": gold, "rank": rank, "nearest": nearest}

    def _ranked(self, vectors):
        queries, documents = vectors[self._queries], vectors[self._documents]
        if isinstance(queries, TokenVectors):
            numbers = np.arange(len(queries))
            return ranking.best(
                lambda rows: queries[numbers[rows]].scores(documents), len(queries), len(documents),
                excluded=self._same,
            )  # fmt: skip
        return ranking.nearest(queries, documents, excluded=self._same)


class PairClassification(Vectors):
    """Holds pairs of texts that have the same meaning or not, classified by a threshold on their similarity.

    f1 chooses the threshold of each half of the pairs on the other half; max_f1, which other libraries report, on the
    pairs themselves.

    Args:
      texts: the encoded texts.
      pairs: numbers of the texts of each pair, int [pairs, 2].
      same: bool [pairs].
      records: other columns of each pair.
    """

    metrics = ("average_precision", "f1", "max_f1")

    def __init__(self, texts: TextStore, pairs: np.ndarray, same: np.ndarray, others: Sequence[Mapping[str, Any]] = ()):
        super().__init__(texts)
        self._pairs, self._same, self.others = pairs, same, others
        self.baseline = float(np.mean(same))

    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns metrics.pairs of the dot products of vectors [texts, size]."""
        return metrics.pairs(self._same, paired_products(vectors, self._pairs), halves(len(self._pairs)))

    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields text, text_pair, gold (0 or 1) and score of each pair; vectors [texts, size]."""
        products = paired_products(vectors, self._pairs)
        for (first, second), gold, score in zip(self._pairs, self._same, products, strict=True):
            texts = {"text": self.texts[first], "text_pair": self.texts[second]}
            yield texts | {"gold": int(gold), "score": float(score)}


class Clustering(Vectors):
    """Holds sets of texts with classes, which k-means is to find; v_measure is the mean over the sets.

    Args:
      texts: the encoded texts.
      sets: for each set, the numbers of its texts, int [n], and their classes, [n].
    """

    metrics = ("v_measure",)
    baseline = 0.0

    def __init__(self, texts: TextStore, sets: Sequence[tuple[np.ndarray, Sequence[str]]]):
        super().__init__(texts)
        self._sets = sets

    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns the v-measure of k-means with as many clusters as classes, of vectors [texts, size]."""
        scores = [
            metrics.v_measure(classes, clusters)
            for (_, classes), clusters in zip(self._sets, self._clusters(vectors), strict=True)
        ]
        return {"v_measure": float(np.mean(scores))}

    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields text, gold (its class) and cluster of each text; vectors [texts, size]."""
        for (numbers, classes), clusters in zip(self._sets, self._clusters(vectors), strict=True):
            for number, gold, cluster in zip(numbers, classes, clusters.tolist(), strict=True):
                yield {"text": self.texts[number], "gold": gold, "cluster": cluster}

    def _clusters(self, vectors):
        for numbers, classes in self._sets:
            yield clustering.k_means(vectors[numbers], len(set(classes)))


class Reranking(Vectors):
    """Holds queries with documents that answer them and documents that do not, ranked by dot products.

    Documents of equal scores count as ranked the wrong way round, in map as those of one rank.

    Args:
      texts: the encoded texts.
      queries: numbers of texts.
      documents: for each query, the numbers of its documents, int [n].
      relevant: for each query, bool [n].
    """

    metrics = ("map", "mrr@10", "ndcg@10")
    baseline = float("nan")

    def __init__(
        self,
        texts: TextStore,
        queries: Sequence[int],
        documents: Sequence[np.ndarray],
        relevant: Sequence[np.ndarray],
    ):
        super().__init__(texts)
        self._queries, self._documents, self._relevant = queries, documents, relevant

    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Returns the means over the queries of map, mrr@10 and ndcg@10, of vectors [texts, size]."""
        orders, precisions = [], []
        for scores, relevant in zip(self._products(vectors), self._relevant, strict=True):
            precisions.append(metrics.average_precision(relevant, scores))
            orders.append(np.lexsort((relevant, -scores)))
        grades = [{int(i): 1.0 for i in np.flatnonzero(relevant)} for relevant in self._relevant]
        scores = ranking.score(orders, grades)
        return {"map": float(np.mean(precisions)), "mrr@10": scores["mrr@10"], "ndcg@10": scores["ndcg@10"]}

    def predictions(self, vectors: np.ndarray) -> Iterator[dict]:
        """Yields text of each query, gold (its documents), rank of the first of them, and the nearest documents.

        Args:
          vectors: float32 [texts, size].
        """
        of_query = zip(self._queries, self._documents, self._relevant, self._products(vectors), strict=True)
        for query, documents, relevant, scores in of_query:
            order = np.lexsort((relevant, -scores))
            nearest = [{"text": self.texts[documents[i]], "score": float(scores[i])} for i in order[:_SHOWN]]
            gold = [self.texts[document] for document in documents[relevant]]
            rank = int(np.flatnonzero(relevant[order])[0]) + 1
            yield {"text": self.texts[query], "gold": gold, "rank": rank, "nearest": nearest}

    def _products(self, vectors):
        for query, documents in zip(self._queries, self._documents, strict=True):
            yield _products(vectors, query, documents, np.float64)


def _products(vectors, query, documents, dtype=np.float32):
    """Returns the scores of the documents of some numbers for a query, [documents]."""
    if isinstance(vectors, TokenVectors):
        return vectors[[query]].scores(vectors[documents])[0]
    return vectors[documents].astype(dtype) @ vectors[query]


def unit_vectors(vectors: Any) -> Any:
    """Returns vectors [n, size], or TokenVectors, scaled to length 1, float32; zero stays zero."""
    if isinstance(vectors, TokenVectors):
        return vectors.unit()
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def paired_products(vectors: Any, pairs: np.ndarray) -> np.ndarray:
    """Returns the dot product of each pair, float64 [pairs].

    Args:
      vectors: float32 [texts, size], or TokenVectors.
      pairs: int [pairs, 2].
    """
    if isinstance(vectors, TokenVectors):
        return np.array([_products(vectors, query, [document])[0] for query, document in pairs.tolist()], np.float64)
    first, second = vectors[pairs[:, 0]], vectors[pairs[:, 1]]
    return (first.astype(np.float64) * second).sum(-1)


def halves(count: int) -> np.ndarray:
    """Returns which half each of some examples belongs to, bool [count]: the same at every call, in no order."""
    draws = hashing.draw(hashing.fold("halves"), np.arange(count, dtype=np.uint64))
    half = np.zeros(count, bool)
    half[np.argsort(draws, kind="stable")[: count // 2]] = True
    return half
