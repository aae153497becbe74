"""Scores of vectors against plain definitions, and their predictions."""

import numpy as np
import pytest

from bert_jax.data.tasks import vector_measures
from bert_jax.data.tasks.late_interaction import TokenVectors


class Store:
    tokenizer = None

    def __init__(self, *texts):
        self.texts, self.lengths = list(texts), np.ones(len(texts), np.int32)


def numbered(count):
    return Store(*(f"t{i}" for i in range(count)))


def unit(seed, count=40, size=6):
    return vector_measures.unit_vectors(np.random.default_rng(seed).standard_normal((count, size)))


def test_pairs_by_a_threshold_of_the_other_half():
    vectors, rng = unit(0), np.random.default_rng(1)
    pairs = rng.integers(0, 40, (60, 2))
    cosines = (vectors[pairs[:, 0]].astype(float) * vectors[pairs[:, 1]]).sum(-1)
    same = cosines + 0.4 * rng.standard_normal(60) > 0.3
    examples = vector_measures.PairClassification(numbered(40), pairs, same)
    scores = examples.score(vectors)
    half = vector_measures.halves(60)
    assert half.sum() == 30 and not (half == (np.arange(60) % 2 == 0)).all() and not (half[:30].all())

    def f1(predicted):
        return 2 * (predicted & same).sum() / (predicted.sum() + same.sum())

    predicted = np.zeros(60, bool)
    for part in (False, True):
        other = half != part
        choices = np.unique(cosines[other])
        counts = [
            2 * ((cosines[other] >= t) & same[other]).sum() / ((cosines[other] >= t).sum() + same[other].sum())
            for t in choices
        ]
        best = max(i for i, count in enumerate(counts) if count == max(counts))
        threshold = (choices[best] + choices[best - 1]) / 2 if best else choices[0]
        predicted |= (half == part) & (cosines >= threshold)
    assert scores["f1"] == pytest.approx(f1(predicted))
    assert scores["max_f1"] == pytest.approx(max(f1(cosines >= t) for t in cosines))
    assert scores["max_f1"] >= scores["f1"]
    rows = list(examples.predictions(vectors))
    assert [row["gold"] for row in rows] == same.astype(int).tolist() and examples.baseline == same.mean()
    np.testing.assert_allclose([row["score"] for row in rows], cosines)


def test_clusters_of_several_sets():
    classes = [["a", "b", "c"][i % 3] for i in range(30)]
    vectors = vector_measures.unit_vectors(np.eye(3)[[ord(name) - 97 for name in classes] * 2] + 0.01 * unit(2, 60, 3))
    sets = [(np.arange(30), classes), (np.arange(30, 60), ["x", "y"] * 15)]
    examples = vector_measures.Clustering(numbered(60), sets)
    alone = [vector_measures.Clustering(numbered(60), [one]).score(vectors)["v_measure"] for one in sets]
    assert alone[0] > 1 - 1e-12 and alone[1] < 0.2
    assert examples.score(vectors) == {"v_measure": pytest.approx(np.mean(alone))}
    rows = list(examples.predictions(vectors))
    assert [row["gold"] for row in rows] == classes + ["x", "y"] * 15
    assert len({(row["gold"], row["cluster"]) for row in rows[:30]}) == 3


def test_rankings_of_given_documents():
    vectors = unit(3)
    documents = [np.arange(5, 12), np.arange(12, 40), np.array([5, 5, 6])]
    relevant = [np.arange(7) < 2, np.arange(28) < 1, np.array([True, False, False])]
    examples = vector_measures.Reranking(numbered(40), [0, 1, 2], documents, relevant)
    precisions, reciprocal = [], []
    for query, own, answers in zip([0, 1, 2], documents, relevant, strict=True):
        scores = vectors[own].astype(float) @ vectors[query]
        ranks = [1 + (scores > score).sum() + (scores == score)[~answers].sum() for score in scores[answers]]
        ranks = sorted(ranks)
        precisions.append(np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]))
        reciprocal.append(1 / ranks[0] if ranks[0] <= 10 else 0)
    scores = examples.score(vectors)
    assert scores["map"] == pytest.approx(np.mean(precisions))
    assert scores["mrr@10"] == pytest.approx(np.mean(reciprocal))
    rows = list(examples.predictions(vectors))
    assert [1 / row["rank"] if row["rank"] <= 10 else 0 for row in rows] == pytest.approx(reciprocal)
    assert rows[0]["gold"] == ["t5", "t6"] and len(rows[0]["nearest"]) == 3


def test_similarity_is_scored_by_correlations():
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    held_out = vector_measures.Similarity(Store(*"abcd"), pairs, np.array([0.9, 0.5, 0.1]))
    vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)  # cosines 0.8, 0.6 and 0
    scores = held_out.score(vectors)
    assert scores["spearman"] == pytest.approx(1) and scores["pearson"] == pytest.approx(0.961, abs=1e-3)
    assert [row["text_pair"] for row in held_out.predictions(vectors)] == ["b", "c", "d"]


def test_a_query_leaves_its_own_document_out():
    texts = Store(*"abc")
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    relevance = [{1: 1.0}]
    with_itself = vector_measures.Retrieval(texts, [0], [0, 1, 2], relevance)
    without = vector_measures.Retrieval(texts, [0], [0, 1, 2], relevance, same=[0])
    assert (with_itself.score(vectors)["recall@1"], without.score(vectors)["recall@1"]) == (0, 1)
    (row,) = with_itself.predictions(vectors)
    assert row["gold"] == ["b"] and row["rank"] == 2 and [hit["text"] for hit in row["nearest"]] == ["a", "b", "c"]


def test_vectors_of_tokens_take_the_place_of_dot_products():
    """A text with one token is ranked and scored as by its vector; with several, by MaxSim."""
    vectors = unit(5, 12)
    relevant = [np.array([True, False, True])] * 2
    examples = (
        vector_measures.Retrieval(numbered(12), [0, 1], [*range(2, 12)], [{0: 1.0}, {3: 1.0}], (2, -1)),
        vector_measures.Reranking(numbered(12), [0, 1], [np.array([2, 3, 4]), np.array([5, 6, 7])], relevant),
        vector_measures.Similarity(numbered(12), np.array([[0, 2], [1, 5], [3, 4]]), np.array([0.0, 1.0, 0.5])),
    )
    tokens = TokenVectors([vector[None] for vector in vectors])
    for held_out in examples:
        assert held_out.score(tokens) == pytest.approx(held_out.score(vectors))
        for one, other in zip(held_out.predictions(tokens), held_out.predictions(vectors), strict=True):
            assert one["text"] == other["text"]
            if "score" in one:
                assert one["score"] == pytest.approx(other["score"], abs=1e-6)
            else:
                assert [hit["text"] for hit in one["nearest"]] == [hit["text"] for hit in other["nearest"]]
    several = TokenVectors([np.stack([vectors[i], vectors[-1 - i]]) for i in range(12)])
    expected = sum(max(vectors[q] @ vectors[d] for d in (2, 9)) for q in (0, 11))
    pair = vector_measures.paired_products(several, np.array([[0, 2]]))
    assert pair.tolist() == pytest.approx([expected])
