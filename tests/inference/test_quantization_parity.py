"""Compares codes of vectors with those of sentence-transformers (make test-parity)."""

import numpy as np
import pytest

import bert_jax
from bert_jax.inference import quantization

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("precision", quantization.PRECISIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_are_those_of_quantize_embeddings(precision, dtype):
    from sentence_transformers.util import quantize_embeddings

    rng = np.random.default_rng(0)
    for size in (5, 24, 384):
        vectors = (rng.standard_normal((150, size)) * rng.uniform(0.1, 5, size)).astype(dtype)
        vectors[:, 1], vectors[7] = 0.25, 0.0  # a constant dimension, and a vector of zeros
        wider = 1.3 * vectors[:120] + 0.1
        ranges = np.stack([vectors.min(0) / 2, vectors.max(0) / 2])  # beyond which values are clipped
        for options in ({}, {"ranges": ranges}, {"calibration_embeddings": wider}):
            theirs = quantize_embeddings(vectors, precision, **options)
            names = {"calibration_embeddings": "calibration"}
            ours = bert_jax.quantize(vectors, precision, **{names.get(k, k): v for k, v in options.items()})
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
