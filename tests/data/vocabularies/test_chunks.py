"""Encoding by cached chunks gives the ids of direct encoding."""

import json

import pytest

from bert_jax.data.vocabularies import chunks, hugging_face, loading
from tests.data.awkward import TEXTS, VOCABULARY, random_texts


@pytest.mark.parametrize("name", ["uncased", "cased", "bpe"])
def test_cached_chunks_equal_direct_encoding(loaded, name):
    tokenizer = loaded[name]
    assert tokenizer._chunks is not None
    texts = ["x" * 10_000, *TEXTS, *random_texts(3000, seed=1)]
    direct = [tokenizer._tokenizer.encode(text, add_special_tokens=False) for text in texts]
    for _ in range(2):  # the second time from the cache
        ids, starts = tokenizer.encode_with_words(texts)
        for encoding, row, words in zip(direct, ids, starts, strict=True):
            assert row.tolist() == encoding.ids
            assert words.tolist() == chunks.word_starts(encoding.word_ids).tolist()


def test_a_full_cache_is_emptied_and_nothing_changes(loaded, monkeypatch):
    monkeypatch.setattr(chunks, "_MAX_CHUNKS", 20)
    monkeypatch.setattr(chunks, "_MAX_CHUNK_LENGTH", 3)
    tokenizer = hugging_face.wordpiece(VOCABULARY, True, "test")
    for start in range(0, 60, 4):
        texts = TEXTS[start : start + 4]
        assert [row.tolist() for row in tokenizer.encode_with_words(texts)[0]] == loaded["uncased"].encode(texts)
        assert len(tokenizer._chunks._known) < 20 + 200


def test_another_pipeline_is_encoded_directly(tmp_path):
    state = json.loads(hugging_face.wordpiece(VOCABULARY, True, "test")._tokenizer.to_str())
    state["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}, state["normalizer"]]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(state), "utf-8")
    tokenizer = loading.load(tmp_path)
    assert tokenizer._chunks is None
    ids, starts = tokenizer.encode_with_words(["hello worlds", "", "the[MASK]"])
    assert [row.tolist() for row in ids] == tokenizer.encode(["hello worlds", "", "the[MASK]"])
    assert starts[0].tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["uncased", "cased", "bpe"])
def test_marks_beside_words_of_any_script(loaded, name):
    """Chunks are put together from parts; a word is cut from its marks as the pipeline cuts it."""
    tokenizer = loaded[name]
    words = ["the", "don", "x1", "1990", "é", "Жук", "σίγμας", "Σ", "中文", "한국", "a\u0301", "\u0301", "\x00a", ""]
    marks = [".", ",", "'", "'s", "’s", "—", "...", "“", "”", "(", "[MASK]", "##", "-", "_", "/"]
    texts = [before + word + after for word in words for before in ["", *marks] for after in ["", *marks]]
    texts += [f"the {text} end" for text in texts]
    direct = [tokenizer._tokenizer.encode(text, add_special_tokens=False) for text in texts]
    ids, starts = tokenizer.encode_with_words(texts)
    for text, encoding, row, is_start in zip(texts, direct, ids, starts, strict=True):
        assert row.tolist() == encoding.ids, text
        assert is_start.tolist() == chunks.word_starts(encoding.word_ids).tolist(), text
