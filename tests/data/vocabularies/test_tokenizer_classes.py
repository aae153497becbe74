"""Vocabularies of every family without transformers: ids, words, places in the text, names, bare models."""

import hashlib
import json
import pathlib
import random

import pytest

from bert_jax.data import rows
from bert_jax.data.vocabularies import chunks, loading, sentencepiece_models, training, word_pieces
from bert_jax.data.vocabularies.tokenizer import Frame
from bert_jax.errors import UserError
from experiments.parity import vocabularies
from tests.data.awkward import PAIRS, TEXTS, random_texts

GOLDEN = pathlib.Path(__file__).with_name("golden_tokens.json")
# What may look across a space: combining marks, joiners, prepended signs, other white space, added tokens.
BESIDE_SPACES = [
    *"ab (-.)12' ", " ", " ", "  ", " the", " cat", "``", "''", "\u0301", " \u0301", "\u0600", "\u0600 ", "\u200d",
    "\ufe0f", "\u0e33", "\u3000", "\u00a0", "\u2581", "\u0130", "\u1112", "\u1161", "\u00a8", "\U0001f3fd", "\n",
    "[unused0]", "1234", " \u0903", "\uff9e", "\U000111c2",
]  # fmt: skip
NAMES = [
    "distilbert", "electra", "mbert", "deberta", "deberta, prefix space", "modernbert", "eurobert",
    "eurobert, end of text too", "xlm-r", "albert", "albert, cased", "deberta-v3", "deberta-v2, punctuation split",
    "mpnet", "esm", "mmbert", "embeddinggemma",
]  # fmt: skip
UNCUT = ("deberta-v2, punctuation split", "mmbert", "embeddinggemma")  # whose texts are encoded whole


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    directories = dict(vocabularies.written(tmp_path_factory.mktemp("written")))
    assert list(directories)[: len(NAMES)] == NAMES
    return directories


@pytest.fixture(scope="module")
def loaded(directories):
    return {name: loading.load(directory) for name, directory in directories.items()}


def test_other_families_with_berts_vocabulary_encode_as_bert(loaded):
    assert {loaded[name].digest() for name in loaded if name not in NAMES} <= {loaded["distilbert"].digest()}


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_transformers(loaded, name):
    golden = json.loads(GOLDEN.read_text())[f"written {name}"]
    for texts, (ids, types) in zip(PAIRS, golden, strict=True):
        joined = rows.join(loaded[name], *loaded[name].encode(list(texts), special=True))
        assert joined == (ids, types), texts


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_encode_agrees(loaded, name):
    tokenizer, texts = loaded[name], TEXTS + random_texts(300, seed=11)
    plain, named = tokenizer.encode(texts), tokenizer.encode(texts, special=True)
    ids, starts = tokenizer.encode_with_words(texts)
    assert [row.tolist() for row in ids] == plain
    assert all(row[0] for row in starts if len(row))
    assert not set(tokenizer.special_ids) - {tokenizer.unk_id} & {i for row in plain for i in row}
    for text, row, (placed, offsets, begins) in zip(texts, named, tokenizer.encode_with_places(texts), strict=True):
        assert placed == row == tokenizer.encode_with_offsets(text)[0] and len(begins) == len(row)
        assert all(text[a:b] == text[a:b].strip() and 0 <= a <= b <= len(text) for a, b in offsets)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*UNCUT, "esm")])
def test_cached_chunks_equal_direct_encoding(loaded, name):
    tokenizer, rng = loaded[name], random.Random(3)
    assert tokenizer._chunks is not None
    texts = TEXTS + ["".join(rng.choices(BESIDE_SPACES, k=rng.randint(0, 14))) for _ in range(1000)]
    direct = tokenizer._plain.encode_batch(texts, add_special_tokens=False)
    for _ in range(2):  # the second time from the cache
        ids, starts = tokenizer.encode_with_words(texts)
        for encoding, row, words in zip(direct, ids, starts, strict=True):
            assert row.tolist() == encoding.ids
            assert words.tolist() == chunks.word_starts(encoding.word_ids).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_saved_is_loaded_the_same(loaded, name, tmp_path):
    tokenizer = loaded[name]
    tokenizer.save(tmp_path, segments=False)
    again = loading.load(tmp_path)
    assert again.encode(TEXTS, special=True) == tokenizer.encode(TEXTS, special=True)
    assert again.encode(TEXTS) == tokenizer.encode(TEXTS)
    facts = ("frame", "special_ids", "vocab_size", "leading_space", "kind")
    assert [getattr(again, fact) for fact in facts] == [getattr(tokenizer, fact) for fact in facts]
    assert again.roles() == tokenizer.roles() and again.digest() == tokenizer.digest()

    def names():
        return json.loads((tmp_path / "tokenizer_config.json").read_text())["model_input_names"]

    assert names() == ["input_ids", "attention_mask"]
    tokenizer.save(tmp_path)
    assert ("token_type_ids" in names()) == bool(tokenizer.frame.segments[1])


def test_words_begin_where_the_pipeline_cuts(loaded):
    def words(name, text):
        (ids,), (starts,) = loaded[name].encode_with_words([text])
        words = []
        for i, start in zip(ids, starts, strict=True):
            words += [""] if start else []
            words[-1] += loaded[name].token(i)
        return words

    assert words("deberta-v3", "the cats  sat") == ["\u2581the", "\u2581cats", "\u2581sat"]
    assert words("albert", "The CATS, sat.") == ["\u2581the", "\u2581cats,", "\u2581sat", "."]
    assert words("modernbert", " hello the19") == ["\u0120hello", "\u0120the", "19"]
    assert words("eurobert", " hello 12345.\n\nthe") == ["\u0120hello", "\u0120", "123", "45", ".\u010a\u010a", "the"]
    assert words("deberta-v2, punctuation split", "a don't.")[1:] == ["\u2581don", "'", "t", "."]


def test_offsets_refer_to_the_original_text(loaded):
    text = "\ufb01ne \u212b caf\u00e9s  on 1\u00bd \uff21mats"
    for name in NAMES:
        ids, offsets = loaded[name].encode_with_offsets(text)
        assert len(ids) == len(offsets) and offsets[-1][1] == len(text)
        covered = {i for a, b in offsets for i in range(a, b)}
        assert covered >= {i for i, character in enumerate(text) if not character.isspace()}, name
    tokenizer = loaded["albert"]
    places = {tokenizer.token(i): text[a:b] for i, (a, b) in zip(*tokenizer.encode_with_offsets(text), strict=True)}
    assert places["\u2581on"] == "on" and places["mat"] == "mat" and places["\u2581a"] == "\uff21"


def test_gemmas_pieces_keep_spaces_and_fall_back_to_bytes(loaded):
    for name in ("mmbert", "embeddinggemma"):
        tokenizer = loaded[name]
        assert tokenizer.leading_space and tokenizer.frame == Frame((2,), (1,), (1,), (1,), ((0,), 0, (0,)))
        (ids,), (starts,) = tokenizer.encode_with_words([" hello the19\u732b"])
        tokens = [tokenizer.token(i) for i in ids]
        assert "".join(tokens[:-4]) == "\u2581hello\u2581the" and tokens[-4:] == ["19", "<0xE7>", "<0x8C>", "<0xAB>"]
        assert [token.startswith("\u2581") for token in tokens] == starts.tolist() and starts.sum() == 2
        assert tokenizer.decode(ids) == " hello the19\u732b"
        begins = word_pieces.begins_word(tokenizer)
        assert [bool(begins[tokenizer.token_id(token)]) for token in ("\u2581the", "he", "\u4e2d")] == [
            True,
            False,
            True,
        ]


def test_a_gemma_vocabulary_without_its_file_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gemma3_text"}')
    with pytest.raises(UserError, match="tokenizer.json: no such file; a GemmaTokenizer is read from it"):
        loading.load(tmp_path)


def test_tokens_of_the_end_and_of_padding_may_be_one(loaded, directories, tmp_path):
    for name in ("eurobert", "eurobert, end of text too"):
        tokenizer = loaded[name]
        assert tokenizer.token(tokenizer.cls_id) == "<|begin_of_text|>"
        assert tokenizer.sep_id == tokenizer.pad_id and tokenizer.token(tokenizer.pad_id) == "<|end_of_text|>"
        assert tokenizer.token(tokenizer.mask_id) == "<|mask|>" and tokenizer.unk_id is None
        assert rows.num_special(tokenizer, pair=True) == (4 if "end" in name else 2)
        batch = rows.pad(tokenizer, [rows.join(tokenizer, [5, 6])], 8)
        assert batch["attention_mask"].sum() == 2 + rows.num_special(tokenizer, pair=False)
    bare = loading.load(directories["eurobert"] / "tokenizer.json")
    assert bare.roles() == loaded["eurobert"].roles() and bare.frame == loaded["eurobert"].frame


def test_names_are_taken_from_every_file_beside(directories, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((directories["eurobert"] / "tokenizer.json").read_bytes())
    assert loading.load(tmp_path).token(loading.load(tmp_path).pad_id) == "<|end_of_text|>"
    mask = {"content": "<|parallel_sep|>", "lstrip": False}
    named = {"mask_token": mask, "pad_token": "<|reserved_special_token_0|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        tokenizer = loading.load(path)
        assert tokenizer.token(tokenizer.mask_id) == "<|parallel_sep|>"
        assert tokenizer.token(tokenizer.pad_id) == "<|reserved_special_token_0|>"


def test_modernbert_ignores_the_class_in_its_settings(directories, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((directories["modernbert"] / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "modernbert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert loading.load(tmp_path).digest() == loading.load(directories["modernbert"]).digest()


def test_models_of_albert_and_deberta_are_known_by_their_pieces(directories, tmp_path):
    (tmp_path / "x.model").write_bytes((directories["albert"] / "spiece.model").read_bytes())
    cased = loading.load(tmp_path / "x.model")  # its pieces have capitals
    assert cased.kind == "unigram" and cased.encode(["The"]) != cased.encode(["the"])
    uncased = loading.load(tmp_path / "x.model", lower_case=True)
    assert uncased.digest() == loading.load(directories["albert"]).digest() == loading.load(tmp_path, True).digest()
    (tmp_path / "x.model").write_bytes((directories["deberta-v3"] / "spm.model").read_bytes())
    assert loading.load(tmp_path / "x.model").digest() == loading.load(directories["deberta-v3"]).digest()


def test_a_model_beside_its_familys_config_is_the_familys(directories):
    for name, file in (("albert", "spiece.model"), ("deberta-v3", "spm.model"), ("xlm-r", "sentencepiece.bpe.model")):
        assert loading.load(directories[name] / file).digest() == loading.load(directories[name]).digest()
    lowered = loading.load(directories["deberta-v3"], lower_case=True)
    assert lowered.encode(["THE"]) == lowered.encode(["the"])


def test_models_that_users_trained_and_old_corpora_stay_sentencepiece(directories, tmp_path):
    proto = (directories["albert"] / "spiece.model").read_bytes()
    sentencepiece_models.SentencePieceTokenizer(proto, "test", lower_case=True).save(tmp_path)
    for path in (tmp_path, tmp_path / "spiece.model"):
        tokenizer = loading.load(path)
        assert tokenizer.kind == "sentencepiece"
        assert tokenizer.digest() == hashlib.blake2b(proto + b"\1", digest_size=16).hexdigest()
    pieces = ["<unk>?", "[CLS]", "[SEP]", "[MASK]", "[PAD]"]
    vocabularies.unigram(tmp_path / "own.model", pieces)
    (tmp_path / "tokenizer_config.json").unlink()
    assert loading.load(tmp_path / "own.model").kind == "sentencepiece"


def test_trained_unigram_keeps_or_drops_capitals_and_accents():
    text = ["The caf\u00e9 sat on the mat, ``The'' cat."] * 20
    lowered = training.train("unigram", text, 40)
    assert lowered.encode(["THE CAFE\u0301"]) == lowered.encode(["the cafe"])
    kept = training.train("unigram", text, 40, lower_case=False)
    assert kept.encode(["THE"]) != kept.encode(["the"]) and kept.unk_id not in kept.encode(["The caf\u00e9"])[0]
    assert [kept.token(i) for i in range(5)] == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    byte_level = training.train("bert-bpe", text, 270)
    assert byte_level.token(byte_level.mask_id) == "[MASK]" and byte_level.leading_space
    assert rows.join(byte_level, [9], [10]) == ([2, 9, 3, 10, 3], [0, 0, 0, 1, 1])


def test_bad_directories_are_reported(directories, tmp_path):
    for model_type, file in (("albert", "spiece.model"), ("deberta-v2", "spm.model"), ("deberta", "vocab.json")):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        with pytest.raises(UserError, match=f"{file}: no such file"):
            loading.load(tmp_path)
    with pytest.raises(UserError, match="--lower_case: .*XLMRobertaTokenizer leaves letters as they are"):
        loading.load(directories["xlm-r"], lower_case=True)
    (tmp_path / "bad.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="bad.model: not a SentencePiece model"):
        loading.load(tmp_path / "bad.model")
