"""Clusters of k-means: separated groups are found, and the same ones at every call."""

import numpy as np

from bert_jax.data.tasks import clustering, metrics


def groups(seed, count=5, size=12, spread=0.1):
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, count, 300)
    return rng.standard_normal((count, size))[classes] + spread * rng.standard_normal((300, size)), classes


def test_separated_groups_are_found():
    for seed in range(5):
        vectors, classes = groups(seed)
        clusters = clustering.k_means(vectors, 5)
        assert metrics.v_measure(classes, clusters) > 1 - 1e-12 and clusters.dtype == np.int64
        np.testing.assert_array_equal(clusters, clustering.k_means(vectors, 5))


def test_every_vector_is_in_the_cluster_of_the_nearest_mean():
    vectors, _ = groups(7, spread=2.0)
    clusters = clustering.k_means(vectors, 5)
    means = np.stack([vectors[clusters == i].mean(0) for i in range(5)])
    np.testing.assert_array_equal(clusters, np.square(vectors[:, None] - means[None]).sum(-1).argmin(1))


def test_equal_and_few_vectors():
    assert len(set(clustering.k_means(np.ones((6, 3)), 4).tolist())) == 1
    assert len(set(clustering.k_means(np.eye(3), 5).tolist())) == 3
    assert clustering.k_means(np.eye(3)[[0, 1, 1, 2, 0]], 3).tolist()[1:3] in ([0, 0], [1, 1], [2, 2])
