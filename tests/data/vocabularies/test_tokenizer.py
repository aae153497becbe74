"""Tokenizers give the ids of transformers, with words and offsets, and are saved and read back."""

import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest

from bert_jax.data.vocabularies import loading, training
from tests.data.awkward import PROSE, TEXTS, random_texts, shared

GOLDEN = pathlib.Path(__file__).with_name("golden_tokens.json")


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["uncased", "cased", "bpe"])
def test_ids_are_those_of_transformers(loaded, name, special):
    golden = json.loads(GOLDEN.read_text())
    assert loaded[name].encode(TEXTS, special=special) == golden[f"{name} special={special}"]


@pytest.mark.parametrize("name", ["uncased", "cased", "bpe", "sentencepiece"])
def test_special_tokens_in_text_are_text(loaded, name):
    tokenizer = loaded[name]
    texts = [tokenizer.token(i) for i in tokenizer.special_ids] + TEXTS
    forbidden = set(tokenizer.special_ids) - {tokenizer.unk_id}
    flat, _, _ = tokenizer.encode_flat(texts)
    assert not forbidden & set(flat.tolist())
    mask = tokenizer.token(tokenizer.mask_id)
    assert tokenizer.encode([f"the {mask} sat"], special=True)[0].count(tokenizer.mask_id) == 1
    assert tokenizer.mask_id in tokenizer.encode_with_offsets(f"the {mask} sat")[0]


@pytest.mark.parametrize("name", ["uncased", "cased", "bpe", "sentencepiece"])
def test_offsets_name_the_text(loaded, name):
    tokenizer = loaded[name]
    text = "The \u00e9cat sat"
    ids, offsets = tokenizer.encode_with_offsets(text)
    assert ids == tokenizer.encode([text])[0]
    assert len(offsets) == len(ids)
    words = {text[a:b].strip() for a, b in offsets}
    assert any("sat".startswith(word) and word for word in words)
    assert offsets[-1][1] == len(text)
    assert all(0 <= a <= b <= len(text) for a, b in offsets)


def test_words_of_each_kind(loaded):
    def words(name, text):
        (ids,), (starts,) = loaded[name].encode_with_words([text])
        return [(loaded[name].token(i), bool(s)) for i, s in zip(ids, starts, strict=True)]

    assert words("uncased", "helloing a, \u4e2d") == [
        ("hello", True), ("##ing", False), ("a", True), (",", True), ("\u4e2d", True),
    ]  # fmt: skip
    assert words("bpe", " hello hellos") == [("\u0120hello", True), ("\u0120hello", True), ("s", False)]
    for text in ("the catdog", "xthe"):
        pieces = words("sentencepiece", text)
        assert [start for _, start in pieces] == [
            i == 0 or piece.startswith("\u2581") for i, (piece, _) in enumerate(pieces)
        ]


@pytest.mark.parametrize("name", ["uncased", "cased", "bpe", "sentencepiece"])
def test_saved_is_loaded_the_same(loaded, name, tmp_path):
    tokenizer = loaded[name]
    tokenizer.save(tmp_path)
    again = loading.load(tmp_path)
    assert again.encode(TEXTS) == tokenizer.encode(TEXTS)
    assert again.encode(TEXTS, special=True) == tokenizer.encode(TEXTS, special=True)
    assert again.digest() == tokenizer.digest()
    facts = ("kind", "vocab_size", "special_ids", "mask_id", "cls_id", "sep_id", "pad_id", "unk_id", "leading_space")
    assert [getattr(again, fact) for fact in facts] == [getattr(tokenizer, fact) for fact in facts]


@pytest.mark.parity
@pytest.mark.parametrize("name", ["bert-base-uncased", "bert-base-cased", "roberta-base"])
def test_published_vocabularies_agree_with_transformers(name, tmp_path):
    import transformers
    from tokenizers import AddedToken

    if name == "roberta-base":
        shutil.copy(shared("vocab/roberta-base/vocab.json"), tmp_path)
        shutil.copy(shared("vocab/gpt2/merges.txt"), tmp_path)
        mask = AddedToken("<mask>", lstrip=True, special=True)
        files = (f"{tmp_path}/vocab.json", f"{tmp_path}/merges.txt")
        theirs, ours = transformers.RobertaTokenizerFast(*files, mask_token=mask), loading.load(tmp_path)
    else:
        path = shared(f"vocab/{name}/vocab.txt")
        theirs = transformers.BertTokenizerFast(str(path), do_lower_case=name.endswith("uncased"))
        ours = loading.load(path)
    with open(shared("books/00011_alices-adventures-in-wonderland.txt"), encoding="utf-8") as file:
        texts = TEXTS + random_texts(5000, seed=3) + list(itertools.islice(file, 2000))
    for special in (False, True):
        expected = theirs(texts, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
        assert ours.encode(texts, special=special) == expected
    plain = theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert all(np.array_equal(a, b) for a, b in zip(ours.encode_with_words(texts)[0], plain, strict=True))


@pytest.mark.parity
def test_transformers_loads_what_is_saved(tmp_path):
    import transformers

    for kind, size in (("wordpiece", 120), ("bpe", 300), ("bert-bpe", 300), ("unigram", 60)):
        ours = training.train(kind, PROSE, size)
        ours.save(tmp_path / kind)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / kind)
        assert theirs(PROSE[:3], add_special_tokens=False)["input_ids"] == ours.encode(PROSE[:3])
        assert theirs.mask_token_id == ours.mask_id
        assert theirs.cls_token_id == ours.cls_id
