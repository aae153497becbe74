"""Scores of rankings against plain definitions, written query by query."""

import math

import numpy as np
import pytest

from bert_jax.data.tasks import ranking


def plain(ranked, relevance):
    totals = {name: [] for name in ranking.METRICS}
    for row, grades in zip(ranked, relevance, strict=True):
        relevant = {document for document, grade in grades.items() if grade > 0}
        if not relevant:
            continue
        gain = sum(grades.get(document, 0) / math.log2(i + 2) for i, document in enumerate(row[:10]))
        best = sum(grade / math.log2(i + 2) for i, grade in enumerate(sorted(grades.values(), reverse=True)[:10]))
        totals["ndcg@10"].append(gain / best)
        places = [i for i, document in enumerate(row, 1) if document in relevant]
        totals["mrr@10"].append(1 / places[0] if places and places[0] <= 10 else 0)
        totals["map@100"].append(sum((i + 1) / place for i, place in enumerate(places) if place <= 100) / len(relevant))
        for depth in (1, 10, 100):
            totals[f"recall@{depth}"].append(len(relevant.intersection(row[:depth])) / len(relevant))
        totals["accuracy@1"].append(row[0] in relevant)
    return {name: np.mean(values) for name, values in totals.items()}


def test_scores():
    rng = np.random.default_rng(0)
    ranked = np.array([rng.permutation(300)[:100] for _ in range(50)])
    relevance = [
        {int(document): float(rng.integers(0, 3)) for document in rng.choice(300, rng.integers(1, 20), replace=False)}
        for _ in range(50)
    ]
    for i in range(0, 50, 3):
        relevance[i][int(ranked[i, rng.integers(0, 12)])] = 2.0
    scores, expected = ranking.score(ranked, relevance), plain(ranked.tolist(), relevance)
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        assert abs(scores[name] - value) < 1e-12, name


def test_nearest_against_a_full_sort():
    rng = np.random.default_rng(1)
    queries, documents = rng.normal(size=(300, 8)).astype(np.float32), rng.normal(size=(500, 8)).astype(np.float32)
    documents[100:110] = documents[90:100]  # equal scores come in the order of the documents
    scores = queries @ documents.T
    expected = np.argsort(-scores, axis=1, kind="stable")
    np.testing.assert_array_equal(ranking.nearest(queries, documents, 20), expected[:, :20])
    np.testing.assert_array_equal(ranking.nearest(queries, documents, 1000), expected)
    own = np.arange(300)
    without = ranking.nearest(queries, documents, 20, own)
    assert not (without == own[:, None]).any()
    for i in range(300):
        np.testing.assert_array_equal(without[i], expected[i][expected[i] != i][:20])


def test_nothing_is_ranked_in_the_place_of_what_is_left_out():
    queries, documents = np.eye(3, dtype=np.float32), np.eye(3, 3, dtype=np.float32) + 0.1
    ranked = ranking.nearest(queries, documents, 10, [0, -1, 2])
    assert ranked.tolist() == [[1, 2, -1], [1, 0, 2], [0, 1, -1]]
    assert ranking.score(ranked, [{0: 1.0}, {1: 1.0}, {1: 1.0}])["recall@100"] == pytest.approx(2 / 3)


def test_queries_without_a_relevant_document_do_not_count():
    ranked = np.array([[0, 1], [1, 0]])
    assert ranking.score(ranked, [{0: 1.0}, {}])["ndcg@10"] == 1.0
    assert ranking.score(ranked, [{0: 1.0}, {1: 0.0}])["recall@1"] == 1.0
    assert ranking.score(ranked, [{}, {}])["mrr@10"] == 0.0
