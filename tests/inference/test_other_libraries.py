"""Keyword arguments that callers know from sentence-transformers and transformers are read, or refused in one line."""

import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.inference.other_libraries import check_options
from bert_jax.model import Task
from tests.inference.conftest import make_model

TEXTS = ["the cat sat .", "a dog"]


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(tokenizer, Task("sequence_classification", 1, "cls"), ("score",), problem="single_label")


@pytest.fixture(scope="module")
def embedder(model):
    return bert_jax.Embedder(model)


def test_what_changes_no_vector_is_accepted(embedder, capfd):
    plain = embedder.encode(TEXTS)
    for options in (
        {"batch_size": 8, "convert_to_numpy": True, "convert_to_tensor": False, "show_progress_bar": False},
        {
            "batch_size": np.int64(1),
            "device": "cpu",
            "output_value": "sentence_embedding",
            "normalize_embeddings": False,
        },
        {"device": None, "pool": None, "chunk_size": None, "prompt": None, "prompt_name": None, "precision": "float32"},
    ):
        assert np.array_equal(embedder.encode(TEXTS, **options), plain)
    assert np.array_equal(embedder.encode_query(TEXTS, batch_size=2), plain)
    assert np.array_equal(embedder.encode_document(TEXTS), plain)
    assert capfd.readouterr().err == ""


def test_what_changes_vectors_does(embedder):
    plain = embedder.encode(TEXTS)
    unit = embedder.encode(TEXTS, normalize_embeddings=True, show_progress_bar=True)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5)
    assert np.array_equal(embedder.encode(TEXTS, truncate_dim=5), plain[:, :5])
    short = embedder.encode(TEXTS[0], truncate_dim=5, normalize_embeddings=True)
    np.testing.assert_allclose(short, plain[0, :5] / np.linalg.norm(plain[0, :5]), rtol=1e-5)
    cut = bert_jax.Embedder(embedder.model, normalize=True).encode(TEXTS, truncate_dim=5)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch_size", 0, "batch_size: found 0; expected a number of at least 1"), ("batch_size", "32", "found '32'"),
        ("convert_to_tensor", True, "convert_to_tensor: found True; expected False; torch.from_numpy"),
        ("convert_to_numpy", False, "expected True: the answer is an array of numpy"),
        ("output_value", "token_embeddings", "output_value: found 'token_embeddings'; expected 'sentence_embedding'"),
        ("device", "cuda:0", "device: found 'cuda:0'; expected 'cpu' or None: the environment variable JAX_PLATFORMS"),
        ("activation_fn", abs, "expected None: the model's own activation"), ("padding", 3, "padding: found 3"),
        ("show_progress_bar", "yes", "show_progress_bar: found 'yes'; expected True or False"),
    ],
)  # fmt: skip
def test_what_is_not_done_is_refused(option, value, message):
    with pytest.raises(UserError, match=message) as error:
        check_options("encode", {option: value})
    assert "\n" not in str(error.value)


def test_arguments_of_no_library_are_a_mistake_of_the_program(embedder):
    for call in (embedder.encode, embedder.encode_query, bert_jax.Classifier(embedder.model)):
        with pytest.raises(TypeError, match="got an unexpected keyword argument 'batchsize'"):
            call("a dog", batchsize=8)
    for option, value in (("normalize_embeddings", 2), ("truncate_dim", 0), ("truncate_dim", 33)):
        with pytest.raises(UserError, match=f"{option}: found {value}"):
            embedder.encode("a dog", **{option: value})


def test_every_call_takes_them(model, tokenizer):
    plain = bert_jax.Classifier(model)("a dog")
    assert bert_jax.Classifier(model)("a dog", batch_size=2, truncation=True, padding=True) == plain
    reranker = bert_jax.Reranker(model)
    ranked = reranker.rank("a dog", TEXTS)
    short = reranker.rank("a dog", TEXTS, batch_size=2, show_progress_bar=False, return_documents=False)
    assert short == [{key: answer[key] for key in ("index", "score")} for answer in ranked]
    pairs = [("a dog", text) for text in TEXTS]
    scores = reranker.predict(pairs, batch_size=8, convert_to_numpy=True)
    assert scores.dtype == np.float32 and np.array_equal(scores, reranker.scores("a dog", TEXTS))
    assert np.array_equal(reranker.predict([list(pair) for pair in pairs]), scores)
    for pair in (pairs[0], list(pairs[0]), {"query": "a dog", "document": TEXTS[0]}):
        assert reranker.predict(pair) == pytest.approx(scores[0]) and np.ndim(reranker.predict(pair)) == 0
    words = make_model(tokenizer)
    mask = "a [MASK] ."
    assert bert_jax.FillMask(words)(mask, batch_size=2) == bert_jax.FillMask(words)(mask)
    assert (bert_jax.SparseEmbedder(words).encode("a dog", batch_size=2)).shape == (1, tokenizer.vocab_size)
