"""Sparse embedders: weights of the vocabulary's tokens, what is nearest by them, and what is refused."""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference import sparse as sparse_lib
from bert_jax.interop import huggingface
from tests.inference import conftest as tiny

TEXTS = ["ab cd ef", "be", "da ab cd , be ca da fa", "gh ik"]


def make(switches=None, settings=None):
    tokenizer = tiny.hugging_face.wordpiece(tiny.VOCABULARY, True, "test")
    model = tiny.make_model(tokenizer, settings=settings or {}, **(switches or {"language_model": True}))
    return model


@pytest.fixture(scope="module")
def model():
    return make()


def dense(model, texts):
    """Returns the vectors from the scores of each text by itself, float64 [texts, vocabulary]."""
    rows = []
    for text in texts:
        ids = model.tokenizer.encode([text])[0]
        batch = {"input_ids": np.array([[model.tokenizer.cls_id, *ids, model.tokenizer.sep_id]], np.int32)}
        batch |= {"attention_mask": np.ones_like(batch["input_ids"]), "token_type_ids": 0 * batch["input_ids"]}
        scores = np.asarray(model.apply(batch)["mlm_logits"][0], np.float64)
        rows.append(np.log1p(np.maximum(scores, 0)).max(0))
    return np.stack(rows)


@pytest.mark.more
def test_weights_of_texts_of_any_length(model):
    embedder = bert_jax.SparseEmbedder(model)
    vectors, expected = embedder.encode(TEXTS), dense(model, TEXTS)
    assert isinstance(vectors, sparse.csr_array) and vectors.dtype == np.float32
    assert vectors.shape == (4, embedder.size) == (4, len(tiny.VOCABULARY))
    np.testing.assert_allclose(vectors.toarray(), expected, rtol=1e-4, atol=1e-5)
    assert 0 < vectors.nnz < vectors.shape[0] * vectors.shape[1]
    np.testing.assert_allclose(embedder.encode(TEXTS[2]).toarray(), vectors[[2]].toarray(), atol=1e-5)
    assert embedder.encode([]).shape == (0, embedder.size)
    words = embedder.decode(vectors, top_k=2)
    best = np.argsort(-expected[0])[:2]
    assert [word for word, _ in words[0]] == [tiny.VOCABULARY[i] for i in best]
    assert [weight for _, weight in words[0]] == pytest.approx(expected[0][best].tolist(), rel=1e-4)


def test_sums_and_the_second_logarithm(model):
    once = bert_jax.SparseEmbedder(model, activation="log1p_relu").encode(TEXTS).toarray()
    np.testing.assert_allclose(once, np.log1p(np.log1p(np.expm1(dense(model, TEXTS)))), rtol=1e-4, atol=1e-5)
    summed = bert_jax.SparseEmbedder(model, pooling="sum").encode(TEXTS).toarray()
    assert (summed >= bert_jax.SparseEmbedder(model).encode(TEXTS).toarray() - 1e-5).all()


def test_the_largest_weights_alone(model):
    every = bert_jax.SparseEmbedder(model).encode(TEXTS).toarray()
    kept = bert_jax.SparseEmbedder(model, max_terms=3).encode(TEXTS).toarray()
    assert ((kept > 0).sum(1) == 3).all()
    for row, all_of_row in zip(kept, every, strict=True):
        np.testing.assert_array_equal(np.sort(row[row > 0]), np.sort(all_of_row)[-3:])
    told = bert_jax.SparseEmbedder(make(settings={"max_terms": 3}))
    np.testing.assert_array_equal(told.encode(TEXTS).toarray(), kept)


def test_what_is_nearest(model):
    embedder = bert_jax.SparseEmbedder(model)
    vectors = dense(model, TEXTS)
    scores = vectors @ vectors.T
    np.testing.assert_allclose(embedder.similarity(TEXTS, TEXTS), scores, rtol=1e-4)
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = embedder.similarity(TEXTS, embedder.encode(TEXTS), kind="cosine")
    np.testing.assert_allclose(cosines, scores / lengths / lengths[:, None], rtol=1e-4)
    hits = embedder.search(TEXTS, TEXTS, top_k=3)
    for hit, row in zip(hits, scores, strict=True):
        assert [document["index"] for document in hit] == np.argsort(-row, kind="stable")[:3].tolist()
        assert [document["text"] for document in hit] == [TEXTS[document["index"]] for document in hit]
    (alone,) = embedder.search(TEXTS[1], embedder.encode(TEXTS), top_k=1)
    assert alone == {"index": hits[1][0]["index"], "score": pytest.approx(hits[1][0]["score"], rel=1e-5)}
    assert len(embedder.search("ab", TEXTS, top_k=9)) == 4


def test_blocks_of_documents_have_the_order_of_all(model, monkeypatch):
    """Equal documents come in the order of the corpus, wherever a block ends."""
    monkeypatch.setattr(sparse_lib, "_BLOCK", 3)
    monkeypatch.setattr(sparse_lib, "_QUERIES", 2)
    monkeypatch.setattr(sparse_lib, "_NUMBERS", 1)
    embedder = bert_jax.SparseEmbedder(model)
    documents = [*TEXTS, *TEXTS[::-1], "fa", *TEXTS]
    vectors = embedder.encode(TEXTS)
    scores = np.asarray((vectors.astype(np.float64) @ embedder.encode(documents).astype(np.float64).T).toarray())
    for top_k in (1, 4, 7, 99):
        places, found = embedder.rank(vectors, ((f"d{i}", text) for i, text in enumerate(documents)), top_k)
        expected = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
        for row, order in zip(places, expected, strict=True):  # encoded by threes, equal texts differ by rounding
            assert len(set(row)) == len(row)
            assert [documents[place] for place in row] == [documents[place] for place in order]
        np.testing.assert_allclose(found, np.take_along_axis(scores, expected, 1), rtol=1e-5)
        hits = embedder.search(TEXTS, documents, top_k)
        assert [[hit["index"] for hit in row] for row in hits] == expected.tolist()


def test_a_directory_of_sentence_transformers(model, tmp_path):
    settings = {"sparse": ("max", "log1p_relu"), "max_length": 6, "prompts": {"query": "ab "}, "max_terms": 9}
    huggingface.write(dataclasses.replace(model, settings=settings), tmp_path / "written")
    again = bert_jax.SparseEmbedder(tmp_path / "written")
    assert again.max_length == 6 and again.model.settings["sparse"] == ("max", "log1p_relu")
    ours = bert_jax.SparseEmbedder(dataclasses.replace(model, settings=settings))
    np.testing.assert_array_equal(again.encode(TEXTS).toarray(), ours.encode(TEXTS).toarray())
    expected = (again.encode("ab cd") @ again.encode(TEXTS).T).toarray().max()
    assert again.search("cd", TEXTS)[0]["score"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="its vectors are sparse.*bert_jax.SparseEmbedder"):
        bert_jax.Embedder(tmp_path / "written")
    assert bert_jax.Embedder(tmp_path / "written", pooling="mean").encode("ab").shape == (
        again.model.model.spec.hidden_size,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "mean"}, "pooling: found 'mean'; expected max or sum"),
        ({"activation": "tanh"}, "activation: found 'tanh'; expected relu or log1p_relu"),
        ({"max_terms": 0}, "max_terms: found 0; expected at least 1"),
    ],
)
def test_arguments_that_are_refused(model, options, message):
    with pytest.raises(UserError, match=message):
        bert_jax.SparseEmbedder(model, **options)


def test_models_and_calls_that_are_refused(model):
    with pytest.raises(UserError, match="masked-language-model head, which this model lacks"):
        bert_jax.SparseEmbedder(make({"language_model": False}))
    embedder = bert_jax.SparseEmbedder(model)
    with pytest.raises(UserError, match="kind: found 'euclidean'; expected dot or cosine"):
        embedder.similarity("ab", "cd", kind="euclidean")
    with pytest.raises(UserError, match="top_k: found 0"):
        embedder.search("ab", TEXTS, top_k=0)
    with pytest.raises(UserError, match="text 2: .*empty"):
        embedder.encode(["ab", " "])
