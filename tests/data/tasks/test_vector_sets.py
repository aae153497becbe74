"""Texts behind prompts."""

import numpy as np

from bert_jax.data.long_texts import LongReading
from bert_jax.data.tasks import vector_sets
from tests.data.tasks.test_embedding import TOKENS, tokenizer  # noqa: F401


def test_texts_behind_prompts(tokenizer):  # noqa: F811
    texts = vector_sets.Texts(tokenizer, LongReading("truncate", 12), skips_prompts=True)
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
