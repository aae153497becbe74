"""MaxSim on the device: texts of any number and length, and the nearest documents over several blocks."""

import numpy as np
import pytest

from bert_jax.inference import maxsim


def make(count, seed, size=5, most=20):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((rng.integers(1, most), size)).astype(np.float32) for _ in range(count)]


def plain(queries, documents):
    return np.array([[(q.astype(float) @ d.T.astype(float)).max(1).sum() for d in documents] for q in queries])


@pytest.mark.parametrize(("number", "products"), [(3, 1 << 24), (40, 1 << 12), (1, 1)])
def test_scores_of_texts_of_any_length(monkeypatch, number, products):
    monkeypatch.setattr(maxsim, "_PRODUCTS", products)
    queries, documents = make(number, 0, most=9), make(17, 1)
    expected = plain(queries, documents)
    np.testing.assert_allclose(maxsim.scores(queries, documents, "maxsim"), expected, rtol=1e-5, atol=1e-5)
    lengths = np.array([len(query) for query in queries])[:, None]
    np.testing.assert_allclose(
        maxsim.scores(queries, documents, "meanmaxsim"), expected / lengths, rtol=1e-5, atol=1e-5
    )
    assert maxsim.scores(queries, [], "maxsim").shape == (number, 0)


def test_the_nearest_of_several_blocks():
    queries, documents = make(4, 2), make(30, 3)
    documents[11] = documents[3]  # equal scores, in different blocks
    places, scores = np.zeros((4, 0), np.int64), np.zeros((4, 0))
    for first in range(0, 30, 8):
        places, scores = maxsim.nearest(queries, documents[first : first + 8], 12, "maxsim", places, scores, first)
    expected = plain(queries, documents)
    order = np.argsort(-expected, axis=1, kind="stable")[:, :12]
    np.testing.assert_array_equal(places, order)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, order, axis=1), rtol=1e-5)
