"""Texts behind prompts, and the sets of them whose vectors are scored."""

import numpy as np
import pytest

from bert_jax.data.tasks import vector_sets
from tests.data.tasks.test_embedding import TOKENS, tokenizer  # noqa: F401


def test_texts_behind_prompts(tokenizer):  # noqa: F811
    texts = vector_sets.Texts(tokenizer, 12, skips_prompts=True)
    numbers = [texts.add("a b"), texts.add("a b", "ask: "), texts.add("a b"), texts.add("c", "ask: ")]
    assert numbers == [0, 1, 0, 2]
    texts.encode()
    batch = texts.batch(np.array([0, 1, -1]), 8)
    ids = {token: i for i, token in enumerate(TOKENS)}
    expected = [["[CLS]", "a", "b", "[SEP]"], ["[CLS]", "ask", ":", "a", "b", "[SEP]"], ["[CLS]"]]
    for row, tokens in zip(batch["input_ids"], expected, strict=True):
        assert row[: len(tokens)].tolist() == [ids[token] for token in tokens] and not row[len(tokens) :].any()
    assert batch["skipped"].tolist() == [0, 3, 0]
    assert texts.identity.tolist() == [0, 0, 1]  # the same text, with and without a prompt


def encoded(tokenizer, *texts):  # noqa: F811
    numbered = vector_sets.Texts(tokenizer, 12, skips_prompts=False)
    for text in texts:
        numbered.add(text)
    numbered.encode()
    return numbered


def test_similarity_is_scored_by_correlations(tokenizer):  # noqa: F811
    pairs = np.array([[0, 1], [0, 2], [0, 3]])
    held_out = vector_sets.Similarity(encoded(tokenizer, "a", "b", "c", "d"), pairs, np.array([0.9, 0.5, 0.1]))
    vectors = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)  # cosines 0.8, 0.6 and 0
    scores = held_out.score(vectors)
    assert scores["spearman"] == pytest.approx(1) and scores["pearson"] == pytest.approx(0.961, abs=1e-3)
    assert [row["text_pair"] for row in held_out.predictions(vectors)] == ["b", "c", "d"]


def test_a_query_leaves_its_own_document_out(tokenizer):  # noqa: F811
    texts = encoded(tokenizer, "a", "b", "c")
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    relevance = [{1: 1.0}]
    with_itself = vector_sets.Retrieval(texts, [0], [0, 1, 2], relevance)
    without = vector_sets.Retrieval(texts, [0], [0, 1, 2], relevance, same=[0])
    assert (with_itself.score(vectors)["recall@1"], without.score(vectors)["recall@1"]) == (0, 1)
    (row,) = with_itself.predictions(vectors)
    assert row["gold"] == ["b"] and row["rank"] == 2 and [hit["text"] for hit in row["nearest"]] == ["a", "b", "c"]
