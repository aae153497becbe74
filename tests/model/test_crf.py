"""Compares the CRF with an enumeration of all labellings."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax.model import crf

LABELS, LENGTH = 3, 7
# The chain's positions of each row: scattered, all, one, none.
CHAINS = ((1, 2, 4, 6), tuple(range(LENGTH)), (3,), ())


def parameters(seed=0):
    random = np.random.default_rng(seed)
    logits = random.standard_normal((len(CHAINS), LENGTH, LABELS)).astype(np.float32) * 2
    mask = np.array([[position in chain for position in range(LENGTH)] for chain in CHAINS])
    shapes = ((LABELS, LABELS), (LABELS,), (LABELS,))
    return logits, mask, [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def score(logits, chain, labels, transitions, first, last):
    total = float(first[labels[0]]) + float(last[labels[-1]])
    total += sum(float(logits[position, label]) for position, label in zip(chain, labels, strict=True))
    return total + sum(float(transitions[pair]) for pair in itertools.pairwise(labels))


def test_likelihood_and_best_labels_against_every_labelling():
    logits, mask, weights = parameters()
    labels = np.random.default_rng(1).integers(0, LABELS, mask.shape).astype(np.int32)
    given = np.where(mask, labels, -100)
    actual = jax.jit(crf.log_likelihood)(logits, given, mask, *weights)
    decoded = np.asarray(jax.jit(crf.decode)(logits, mask, *weights))
    for row, chain in enumerate(CHAINS):
        if not chain:
            assert actual[row] == 0.0
            continue
        every = list(itertools.product(range(LABELS), repeat=len(chain)))
        scores = np.array([score(logits[row], chain, one, *weights) for one in every])
        expected = score(logits[row], chain, labels[row, list(chain)], *weights) - np.log(np.exp(scores).sum())
        np.testing.assert_allclose(actual[row], expected, rtol=1e-5)
        assert tuple(decoded[row, list(chain)]) == every[scores.argmax()]
    assert decoded.dtype == np.int32 and not decoded[~mask].any()


def test_without_transitions_it_is_the_softmax_of_each_word():
    logits, mask, weights = parameters(2)
    weights = [jnp.zeros_like(weight) for weight in weights]
    labels = np.random.default_rng(3).integers(0, LABELS, mask.shape).astype(np.int32)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]
    expected = jnp.where(mask, chosen, 0.0).sum(1)
    np.testing.assert_allclose(crf.log_likelihood(logits, labels, mask, *weights), expected, rtol=1e-5)


@pytest.mark.more
def test_its_gradient_is_what_was_seen_less_what_was_expected():
    """Checks the logits' gradient: one-hot labels less marginals, which sum to zero at each position of the chain."""
    logits, mask, weights = parameters(4)
    labels = np.zeros(mask.shape, np.int32)
    gradient = jax.grad(lambda logits: crf.log_likelihood(logits, labels, mask, *weights).sum())(logits)
    assert np.isfinite(gradient).all() and not np.asarray(gradient)[~mask].any()
    np.testing.assert_allclose(gradient.sum(-1), 0.0, atol=1e-5)
    assert (np.asarray(gradient)[mask][:, 0] > 0).all()
