"""Texts for late interaction: rows of queries and documents, the tokens with a vector, and MaxSim of them."""

import json

import numpy as np
import pytest

from bert_jax.data.tasks.late_interaction import Reading, RowMaker, TokenTexts, TokenVectors
from bert_jax.data.vocabularies import hugging_face
from bert_jax.errors import UserError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "ab", "cd", "ef", "##s"]
READING = Reading(6, 7, 6, skiplist=(".", "!"), markers=("[Q] ", "[D] "))


@pytest.fixture(scope="module")
def tokenizer():
    return hugging_face.with_special_tokens(hugging_face.wordpiece(TOKENS, True, "test"), READING.markers)


def test_readings_are_json():
    assert Reading.from_json(json.loads(json.dumps(READING.to_json()))) == READING
    assert READING.marker(True) == "[Q] " and READING.marker(False) == "[D] "


def test_markers_are_tokens_of_their_own(tokenizer):
    assert [tokenizer.token_id(token) for token in ("[Q] ", "[D] ", "ab", "none")] == [10, 11, 6, None]
    assert tokenizer.vocab_size == 12
    assert list(tokenizer.encode(["[Q] AB."], special=True)[0]) == [10, 6, 5]
    assert 10 not in tokenizer.encode(["[Q] AB."])[0]  # in a corpus it is text


def test_rows(tokenizer):
    maker = RowMaker(tokenizer, READING)
    query = maker.row(maker.encode(["ab ."], True)[0], True)
    assert query.ids == [2, 10, 6, 5, 3, 4] and query.attended == 5 and query.scored == [True] * 6
    document = maker.row(maker.encode(["ab . cd !"], False)[0], False)  # "!" is [UNK], which counts
    assert document.ids == [2, 11, 6, 5, 7, 1, 3] and document.attended == 7
    assert document.scored == [True, True, True, False, True, True, True]
    long = maker.row(maker.encode(["ab cd ef ab cd"], True)[0], True)
    assert long.ids == [2, 10, 6, 7, 8, 3] and long.attended == 6
    attended = RowMaker(tokenizer, Reading(6, 7, 6, True, (".",), True)).row([6, 5], True)
    assert attended.ids == [2, 6, 5, 3, 4, 4] and attended.attended == 6
    assert attended.scored == [True, True, False, True, True, True]


def test_texts(tokenizer):
    texts = TokenTexts(tokenizer, READING)
    numbers = [texts.add("ab", "", True), texts.add("ab"), texts.add("ab"), texts.add("cd . ef ab", "ef "),
               texts.add("ab cd ef ab cd", is_query=True)]  # fmt: skip
    assert numbers == [0, 1, 1, 2, 3]
    texts.encode()
    assert texts.lengths.tolist() == [6, 4, 7, 6] and texts.cut == 2
    assert texts.identity.tolist() == [0, 0, 1, 2] and texts.texts[2] == "cd . ef ab"
    batch = texts.batch(np.array([0, 2, -1]), 8)
    np.testing.assert_array_equal(
        batch["input_ids"], [[2, 10, 6, 3, 4, 4, 0, 0], [2, 11, 8, 7, 5, 8, 3, 0], [2, *[0] * 7]]
    )
    np.testing.assert_array_equal(batch["attention_mask"], [[1] * 4 + [0] * 4, [1] * 7 + [0], [1] + [0] * 7])
    np.testing.assert_array_equal(batch["scored"], [[1] * 6 + [0] * 2, [1, 1, 1, 1, 0, 1, 1, 0], [0] * 8])
    texts = TokenTexts(tokenizer, READING)
    texts.add("ab", "ef cd ef ", True)
    with pytest.raises(UserError, match=r"'ef cd ef ' has 4 tokens with its marker, .* of 6 .query_length."):
        texts.encode()


def test_vectors_of_tokens():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, 3)).astype(np.float32) for n in (2, 5, 1, 4)]
    vectors = TokenVectors(arrays).unit()
    assert len(vectors) == 4
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in arrays]
    expected = np.array([[(unit[q] @ unit[d].T).max(1).sum() for d in (3, 0, 2)] for q in (1, 3)])
    np.testing.assert_allclose(vectors[[1, 3]].scores(vectors[[3, 0, 2]]), expected, rtol=1e-6)
    cut = TokenVectors([array[:, :2] for array in arrays])
    np.testing.assert_array_equal(TokenVectors(arrays).cut(2).scores(cut), cut.scores(cut))
    assert TokenVectors([]).scores(vectors).shape == (0, 4)
    with pytest.raises(ValueError, match="text 1 has no vector"):
        TokenVectors([arrays[0], arrays[1][:0]])
