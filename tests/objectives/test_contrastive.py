"""Losses on vectors against plain definitions in float64, pair by pair."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.objectives import contrastive

ROWS, SIZE = 9, 8
RNG = np.random.default_rng(0)
FIRST, SECOND, THIRD = (RNG.normal(size=(ROWS, SIZE)) for _ in range(3))
LABELS = RNG.integers(0, 5, ROWS) / 4
WEIGHTS = np.array([1.0] * (ROWS - 2) + [0.0, 0.0])
REAL = range(ROWS - 2)


def single(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def cosine(one, two):
    return one @ two / math.sqrt((one @ one) * (two @ two))


def test_similarities():
    cosines = np.array([[cosine(one, two) for two in SECOND] for one in FIRST])
    np.testing.assert_allclose(contrastive.similarities(*single(FIRST, SECOND)), cosines, rtol=1e-5, atol=1e-6)
    products = contrastive.similarities(*single(FIRST, SECOND), "dot")
    np.testing.assert_allclose(products, FIRST @ SECOND.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(contrastive.unit(jnp.zeros((2, 3))), np.zeros((2, 3)))


def test_info_nce():
    scores, allowed = RNG.normal(size=(ROWS, 20)) * 5, RNG.random((ROWS, 20)) < 0.7
    positives = RNG.integers(0, 20, ROWS)
    expected = 0.0
    for i in REAL:
        among = [j for j in range(20) if allowed[i, j] or j == positives[i]]
        expected += math.log(sum(math.exp(scores[i, j]) for j in among)) - scores[i, positives[i]]
    contrast = contrastive.Contrast(jnp.asarray(positives, jnp.int32), jnp.asarray(allowed), *single(WEIGHTS))
    total, count = contrastive.info_nce(*single(scores), contrast)
    assert float(total) == pytest.approx(expected, rel=1e-6) and count == len(REAL)


def test_cosent():
    scores = RNG.normal(size=ROWS) * 3
    pairs = [(i, j) for i, j in itertools.product(REAL, REAL) if LABELS[i] < LABELS[j]]
    expected = math.log(1 + sum(math.exp(scores[i] - scores[j]) for i, j in pairs))
    loss, count = contrastive.cosent(*single(scores, LABELS, WEIGHTS))
    assert float(loss) == pytest.approx(expected, rel=1e-6) and count == 1


def test_regression_triplets_and_margins():
    cosines = np.array([cosine(*pair) for pair in zip(FIRST, SECOND, strict=True)])
    total, count = contrastive.cosine_regression(*single(cosines, LABELS, WEIGHTS))
    assert float(total) == pytest.approx(sum((cosines[i] - LABELS[i]) ** 2 for i in REAL), rel=1e-5)
    assert count == len(REAL)
    far = [np.linalg.norm(FIRST[i] - SECOND[i]) - np.linalg.norm(FIRST[i] - THIRD[i]) + 0.5 for i in REAL]
    total, _ = contrastive.triplet(*single(FIRST, SECOND, THIRD), 0.5, *single(WEIGHTS))
    assert float(total) == pytest.approx(sum(max(0.0, value) for value in far), rel=1e-5)


def test_a_teachers_scores():
    scores, targets = RNG.normal(size=(2, ROWS, 4)) * 3
    present = np.array([[1.0] * (1 + i % 4) + [0.0] * (3 - i % 4) for i in range(ROWS)]) * WEIGHTS[:, None]
    margins, divergences = [], []
    for i in REAL:
        texts = range(1 + i % 4)
        margins += [(scores[i, 0] - scores[i, j] - targets[i, 0] + targets[i, j]) ** 2 for j in texts if j]
        own, taught = (np.exp(values[i, texts]) / np.exp(values[i, texts]).sum() for values in (scores, targets))
        divergences.append((taught * np.log(taught / own)).sum())
    total, count = contrastive.margin_mse(*single(scores, targets, present))
    assert float(total) == pytest.approx(sum(margins), rel=1e-5) and count == len(margins)
    total, count = contrastive.divergence(*single(scores, targets, present))
    assert float(total) == pytest.approx(sum(divergences), rel=1e-5) and count == len(REAL)


def test_a_teachers_vectors():
    vectors, present = RNG.normal(size=(ROWS, 3, SIZE)), np.outer(WEIGHTS, [1.0, 1.0, 0.0])
    errors = [((vectors[i, j] - THIRD[i]) ** 2).mean() for i in REAL for j in range(2)]
    total, count = contrastive.regression(*single(vectors, THIRD, present))
    assert float(total) == pytest.approx(sum(errors), rel=1e-5) and count == len(errors)


def test_angles_and_features():
    half = SIZE // 2
    for i, value in enumerate(np.asarray(contrastive.angle_similarities(*single(FIRST, SECOND)), np.float64)):
        one, two = (vector[:half] + 1j * vector[half:] for vector in (FIRST[i], SECOND[i]))
        quotient = one * two.conj() / (abs(two) ** 2).sum()
        scale = math.sqrt((abs(one) ** 2).sum() / (abs(two) ** 2).sum())
        assert value == pytest.approx(abs((quotient.real + quotient.imag).sum()) / scale, rel=1e-4)
    features = np.asarray(contrastive.pair_features(*single(FIRST, SECOND)))
    np.testing.assert_allclose(features, np.concatenate([FIRST, SECOND, abs(FIRST - SECOND)], 1), rtol=1e-6)


def test_known_positives_are_no_negatives():
    texts, groups = jnp.array([0, 1, 2]), jnp.array([7, 7, -1])
    candidates, candidate_groups = jnp.array([3, 0, 5, -1]), jnp.array([7, -1, -1, -1])
    known = jnp.array([[3, -1], [9, -1], [8, 5]])
    allowed = contrastive.may_be_negatives(texts, known, candidates, groups, candidate_groups)
    np.testing.assert_array_equal(allowed, [[False, False, True, False], [False, True, True, False],
                                            [True, True, False, False]])  # fmt: skip
