"""Losses on the scores of a query's documents against plain definitions in float64, document by document."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.objectives import reranking

QUERIES, DOCUMENTS = 6, 5
RNG = np.random.default_rng(0)
SCORES, TEACHER = RNG.normal(size=(QUERIES, DOCUMENTS)), 3 * RNG.normal(size=(QUERIES, DOCUMENTS))
GRADES = RNG.integers(0, 4, (QUERIES, DOCUMENTS)).astype(float)
BINARY = (RNG.random((QUERIES, DOCUMENTS)) < 0.4).astype(float)
BINARY[0, :2], BINARY[1] = (1, 0), 0.0  # the second query has no relevant document
PRESENT = np.ones((QUERIES, DOCUMENTS))
PRESENT[2, 3:], PRESENT[3, 2:], PRESENT[5] = 0.0, 0.0, 0.0  # the last row fills the batch up
TARGETS = {"bce": BINARY, "mse": TEACHER, "listwise": BINARY, "listnet": GRADES, "kl": TEACHER, "ranknet": GRADES,
           "lambdarank": GRADES, "margin_mse": TEACHER}  # fmt: skip


def lists(targets):
    """Yields (scores, targets, whether relevant) of the documents of each query that has some."""
    for row in range(QUERIES):
        places = np.flatnonzero(PRESENT[row])
        if len(places):
            yield SCORES[row, places], targets[row, places], BINARY[row, places] > 0


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def ndcg_changes(scores, grades):
    """Returns by how much the nDCG of a ranking by scores changes where two documents swap places."""
    order = np.argsort(-scores, kind="stable")
    ideal = sum((2**grade - 1) / math.log2(2 + place) for place, grade in enumerate(sorted(grades, reverse=True)))

    def dcg(order):
        return sum((2 ** grades[document] - 1) / math.log2(2 + place) for place, document in enumerate(order))

    changes = np.zeros((len(scores), len(scores)))
    for i, j in itertools.permutations(range(len(scores)), 2):
        swapped = [j if document == i else i if document == j else document for document in order]
        changes[i, j] = abs(dcg(order) - dcg(swapped)) / max(ideal, 1e-10)
    return changes


def plain(kind, positive_weight):
    """Returns (sum of losses, count) by the definition."""
    total, count = 0.0, 0
    for scores, targets, relevant in lists(TARGETS[kind]):
        pairs = list(itertools.permutations(range(len(scores)), 2))
        if kind == "bce":
            for score, target in zip(scores, targets, strict=True):
                total -= math.log(sigmoid(score)) * positive_weight if target else math.log(1 - sigmoid(score))
            count += len(scores)
        elif kind == "mse":
            total, count = total + ((scores - targets) ** 2).sum(), count + len(scores)
        elif kind == "listwise":
            if targets.sum():
                total -= (targets / targets.sum() * np.log(softmax(scores))).sum()
                count += 1
        elif kind in ("listnet", "kl"):
            wanted = softmax(targets)
            total += (wanted * ((np.log(wanted) if kind == "kl" else 0) - np.log(softmax(scores)))).sum()
            count += 1
        elif kind == "margin_mse":
            for i, j in pairs:
                if relevant[i] and not relevant[j]:
                    total, count = total + (scores[i] - scores[j] - targets[i] + targets[j]) ** 2, count + 1
        else:
            weights = ndcg_changes(scores, targets) if kind == "lambdarank" else np.ones((len(scores),) * 2)
            for i, j in pairs:
                if targets[i] > targets[j]:
                    total, count = total - weights[i, j] * math.log(sigmoid(scores[i] - scores[j])), count + 1
    return total, count


def judgements(kind):
    return reranking.Judgements(*(jnp.asarray(array, jnp.float32) for array in (TARGETS[kind], BINARY, PRESENT)))


@pytest.mark.parametrize(("kind", "positive_weight"), [*((kind, 1.0) for kind in TARGETS), ("bce", 2.5)])
def test_losses_by_definition(kind, positive_weight):
    total, count = reranking.loss(kind, jnp.asarray(SCORES, jnp.float32), judgements(kind), positive_weight)
    expected, number = plain(kind, positive_weight)
    assert float(count) == number > 0
    assert float(total) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("kind", TARGETS)
def test_what_fills_up_changes_nothing(kind):
    """Neither the loss nor a gradient depends on the scores, however large, of documents that are not there."""

    def loss(scores):
        return reranking.loss(kind, scores, judgements(kind))[0]

    scores = jnp.asarray(SCORES, jnp.float32)
    other = jnp.where(PRESENT > 0, scores, 1e4)
    assert float(loss(other)) == float(loss(scores))
    one, two = jax.grad(loss)(scores), jax.grad(loss)(other)
    np.testing.assert_array_equal(one, two)
    assert not np.asarray(two)[PRESENT == 0].any() and np.isfinite(one).all()


def test_queries_whose_best_document_is_relevant():
    right, count = reranking.best_is_relevant(jnp.asarray(SCORES, jnp.float32), judgements("ranknet"))
    expected = [targets[np.argmax(scores)] == targets.max() for scores, targets, _ in lists(GRADES)]
    assert (float(right), float(count)) == (sum(expected), len(expected))
