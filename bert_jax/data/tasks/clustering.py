"""Clusters vectors by k-means (Lloyd 1982), begun by k-means++ (Arthur & Vassilvitskii 2007)."""

import numpy as np

_AT_ONCE = 8192  # vectors that are compared with the centres at once
_RUNS = 4  # times that it begins; the tightest clusters are taken
_STEPS = 100  # at most so many in a run


def k_means(vectors: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Returns the cluster of each vector, int64 [n]: of a few runs, the one with the least sum of squared distances.

    Args:
      vectors: float [n, size].
      count: number of clusters; vectors that are fewer, or equal ones, leave some empty.
      seed: seed with which the first centres are drawn.
    """
    vectors = np.asarray(vectors, np.float64)
    best, least = np.zeros(len(vectors), np.int64), np.inf
    for run in range(_RUNS):
        centres = _first_centres(vectors, count, np.random.default_rng([seed, run]))
        clusters, total = _settled(vectors, centres)
        if total < least * (1 - 1e-12):
            best, least = clusters, total
    return best


def _first_centres(vectors, count, rng):
    """Returns vectors that are drawn one by one, by their squared distance to the nearest one before."""
    chosen = [int(rng.integers(len(vectors)))]
    distances = np.square(vectors - vectors[chosen[0]]).sum(-1)
    while len(chosen) < min(count, len(vectors)):
        ends = np.cumsum(distances)
        if ends[-1] <= 0:  # all that is left equals a centre
            break
        chosen.append(min(int(np.searchsorted(ends, rng.random() * ends[-1], side="right")), len(vectors) - 1))
        distances = np.minimum(distances, np.square(vectors - vectors[chosen[-1]]).sum(-1))
    return vectors[chosen]


def _settled(vectors, centres):
    """Returns (cluster of each vector, sum of squared distances) after steps that no longer change the clusters."""
    clusters, distances = _nearest(vectors, centres)
    for _ in range(_STEPS):
        sizes = np.bincount(clusters, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, clusters, vectors)
        centres = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centres)
        for empty in np.flatnonzero(sizes == 0):  # takes the vector that is farthest from its centre
            centres[empty] = vectors[int(np.argmax(distances))]
            distances[int(np.argmax(distances))] = 0.0
        moved, distances = _nearest(vectors, centres)
        if (moved == clusters).all():
            break
        clusters = moved
    return clusters, float(distances.sum())


def _nearest(vectors, centres):
    """Returns (number of the nearest centre of each vector, squared distance to it)."""
    clusters, distances = np.zeros(len(vectors), np.int64), np.zeros(len(vectors))
    sizes = np.square(centres).sum(-1)
    for i in range(0, len(vectors), _AT_ONCE):
        part = vectors[i : i + _AT_ONCE]
        squares = np.square(part).sum(-1)[:, None] - 2 * part @ centres.T + sizes[None]
        clusters[i : i + _AT_ONCE] = squares.argmin(1)
        distances[i : i + _AT_ONCE] = np.maximum(squares.min(1), 0.0)
    return clusters, distances
