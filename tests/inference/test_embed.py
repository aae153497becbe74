"""Embeddings: ways of pooling, defaults of the model, prompts, long texts."""

import dataclasses

import numpy as np
import pytest
from scipy import special

import bert_jax
from bert_jax.data import rows as rows_lib
from bert_jax.errors import UserError
from bert_jax.model import Task
from tests.inference.conftest import LONGEST, make_model, reference, row, texts


@pytest.fixture(scope="module")
def model(tokenizer):
    return make_model(tokenizer, Task("sequence_classification", 2, "attention"), ("a", "b"), problem="single_label")


def with_settings(model, **settings):
    return dataclasses.replace(model, settings=settings)


def layers_of(model, text):
    """[1 + layers, tokens, hidden] of a text."""
    return reference(model, *row(model, text))["hidden_states"]


def weighted(model, hidden):
    score = model.params["task"]["score"]
    return special.softmax((hidden @ np.asarray(score["kernel"]) + np.asarray(score["bias"]))[:, 0]) @ hidden


POOLED = {
    "cls": lambda model, layers: layers[-1, 0],
    "mean": lambda model, layers: layers[-1].mean(0),
    "max": lambda model, layers: layers[-1].max(0),
    "second_to_last": lambda model, layers: layers[-2].mean(0),
    "last_2": lambda model, layers: layers[-2:].mean((0, 1)),
    "last_2_concat": lambda model, layers: np.concatenate(layers[-2:].mean(1)),
    "attention": lambda model, layers: weighted(model, layers[-1]),
    "weightedmean": lambda model, layers: np.average(layers[-1], axis=0, weights=np.arange(layers.shape[1]) + 1),
    "mean_sqrt_len_tokens": lambda model, layers: layers[-1].sum(0) / layers.shape[1] ** 0.5,
    "lasttoken": lambda model, layers: layers[-1, -1],
}


def test_ways_of_pooling(model):
    """All at once: several are concatenated in their order."""
    embedder = bert_jax.Embedder(model, pooling=tuple(POOLED))
    asked = texts(20, most=8)
    vectors = embedder.encode(asked)
    assert vectors.dtype == np.float32 and vectors.shape == (20, embedder.size) == (20, 11 * 32)
    for text, vector in list(zip(asked, vectors, strict=True))[::6]:
        layers = layers_of(model, text)
        expected = np.concatenate([pooled(model, layers) for pooled in POOLED.values()])
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
        alone = embedder.encode(text)
        assert alone.shape == vector.shape
        assert np.linalg.norm(alone - vector) <= 1e-5 * np.linalg.norm(vector)
    assert embedder.encode([]).shape == (0, embedder.size)


def test_defaults_come_from_the_model(model, tokenizer):
    text = "ab cd éf"
    layers = layers_of(model, text)
    np.testing.assert_allclose(bert_jax.Embedder(model).encode(text), weighted(model, layers[-1]), rtol=1e-4, atol=1e-5)
    settings = {"pooling": ("cls",), "normalize": True, "max_length": 5, "prompts": {"query": "ab "}}
    theirs = bert_jax.Embedder(with_settings(model, **settings))
    np.testing.assert_allclose(theirs.encode(text), layers[-1, 0] / np.linalg.norm(layers[-1, 0]), rtol=1e-4, atol=1e-5)
    assert (theirs.encode("ab cd ef gh ij") == theirs.encode("ab cd ef")).all()  # cut as that library does
    assert (theirs.encode("cd", prompt_name="query") == theirs.encode("ab cd")).all()
    assert (theirs.encode("cd", prompt="ab ") == theirs.encode("ab cd")).all()
    default = bert_jax.Embedder(with_settings(model, **settings, default_prompt_name="query"))
    assert (default.encode("cd") == theirs.encode("ab cd")).all()
    with pytest.raises(UserError, match="prompt_name: found 'ask'; the prompts of test are: query"):
        theirs.encode("ab", prompt_name="ask")
    with pytest.raises(UserError, match="prompt: 4 tokens, which leave no room for text in a row of 5"):
        theirs.encode("ab", prompt="ab cd ef gh")


def test_a_prompt_may_be_left_out_of_the_pooling(model):
    embedder = bert_jax.Embedder(with_settings(model, pooling=["mean", "cls"], include_prompt=False))
    last = layers_of(model, "ab cd ef gh")[-1]
    expected = np.concatenate([last[3:].mean(0), last[3]])
    np.testing.assert_allclose(embedder.encode("ef gh", prompt="ab cd "), expected, rtol=1e-4, atol=1e-5)


def test_a_long_text_is_the_mean_of_its_windows(model, tokenizer):
    text = " ".join(texts(6, seed=6))
    (ids,) = tokenizer.encode([text])
    room = LONGEST - 2
    starts = [*range(0, len(ids) - room, room - room // 4), len(ids) - room]
    rows = [rows_lib.join(tokenizer, ids[start : start + room]) for start in starts]
    hidden = np.stack([reference(model, *one)["hidden"] for one in rows])
    vector = hidden.mean((0, 1))
    vectors = bert_jax.Embedder(model, pooling="mean", normalize=True).encode(text)
    np.testing.assert_allclose(vectors, vector / np.linalg.norm(vector), rtol=1e-4, atol=1e-5)
    beginning = bert_jax.Embedder(model, pooling="mean", long="truncate").encode(text)
    np.testing.assert_allclose(beginning, hidden[0].mean(0), rtol=1e-4, atol=1e-5)


def test_mistakes_are_named(model, tokenizer):
    plain = make_model(tokenizer)
    for pooling, message in [
        ("sum", "pooling: found 'sum'; expected cls, mean, max, attention"),
        ("last_3", "pooling: found 'last_3', but test has 2 layers"),
        ("last_0", "pooling: found 'last_0'; expected"),
        ("maen", r"pooling: found 'maen'; expected .*; did you mean mean\?$"),
        (["mean", "second_too_last"], r"pooling: found 'second_too_last'; .*; did you mean second_to_last\?$"),
        ("attention", "pooling: found 'attention', but test has no learned weights"),
        (["mean", None], "pooling: found None"),
    ]:
        with pytest.raises(UserError, match=message):
            bert_jax.Embedder(plain, pooling=pooling)
    with pytest.raises(UserError, match="text 2: empty"):
        bert_jax.Embedder(plain).encode(["ab", " "])
