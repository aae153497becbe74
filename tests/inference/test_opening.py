"""Each model opens for a command with the class that its vectors need."""

import dataclasses

import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference.multi_vector import MultiVectorReranker
from bert_jax.inference.opening import open_predictor
from tests.inference import conftest as tiny
from tests.inference.test_multi_vector import MARKERS
from tests.inference.test_multi_vector import make as multi_vector_model


@pytest.fixture(scope="module")
def dense():
    return tiny.make_model(tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test"), language_model=True)


def test_the_class_of_a_model(dense):
    sparse = dataclasses.replace(dense, settings={"sparse": ("max", "relu")})
    late = multi_vector_model(**MARKERS)
    for model, usual, expected in (
        (dense, bert_jax.Embedder, bert_jax.Embedder),
        (sparse, bert_jax.Embedder, bert_jax.SparseEmbedder),
        (late, bert_jax.Embedder, bert_jax.MultiVectorEmbedder),
        (late, bert_jax.Reranker, MultiVectorReranker),
    ):
        assert type(open_predictor(usual, model, dtype="float32", packing="auto", normalize=None)) is expected
    for model in (sparse, late):
        assert type(open_predictor(bert_jax.Embedder, model, pooling="mean")) is bert_jax.Embedder
        with pytest.raises(UserError, match="--normalize: not for --model=.*, w"):
            open_predictor(bert_jax.Embedder, model, normalize=True)
    with pytest.raises(UserError, match="reranking needs a model"):
        open_predictor(bert_jax.Reranker, sparse)
