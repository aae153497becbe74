"""Vocabularies: the same ids as their reference, with and without the cache, and what is wrong with bad ones."""

import itertools
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from bert_jax.data.vocabularies import chunks, hugging_face, loading, sentencepiece_models, training
from bert_jax.errors import UserError
from tests.data.awkward import TEXTS, VOCABULARY, bpe_files, random_texts, shared

GOLDEN = pathlib.Path(__file__).with_name("golden_tokens.json")
PROSE = [
    "The cat sat on the mat, and the dog looked at the cat.",
    "Nobody knew why the cat had chosen that mat; the dog least of all.",
    "In the morning the mat was gone. The cat and the dog were not surprised.",
] * 20


@pytest.fixture(scope="module")
def wordpiece_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("wordpiece") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def bpe_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    bpe_files(folder)
    return folder


@pytest.fixture(scope="module")
def sentencepiece_tokenizer():
    return training.train("sentencepiece", PROSE, 60)


@pytest.fixture(scope="module")
def loaded(wordpiece_file, bpe_folder, sentencepiece_tokenizer):
    return {
        "uncased": loading.load(wordpiece_file, lower_case=True),
        "cased": loading.load(wordpiece_file, lower_case=False),
        "bpe": loading.load(bpe_folder),
        "sentencepiece": sentencepiece_tokenizer,
    }


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("name", ["uncased", "cased", "bpe"])
def test_ids_are_those_of_transformers(loaded, name, special):
    golden = json.loads(GOLDEN.read_text())
    assert loaded[name].encode(TEXTS, special=special) == golden[f"{name} special={special}"]


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


def test_case_is_decided_by_the_file_beside_or_the_letters(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    assert loading.load(path).encode(["X"]) == [[VOCABULARY.index("X")]]  # it has capitals: cased
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert loading.load(path).encode(["X"]) == [[VOCABULARY.index("x")]]
    (tmp_path / "tokenizer_config.json").unlink()
    path.write_text("\n".join(token for token in VOCABULARY if token == token.lower() or "[" in token) + "\n", "utf-8")
    tokenizer = loading.load(path)
    assert tokenizer.encode(["X"]) == tokenizer.encode(["x"])


def test_user_symbols_of_a_sentencepiece_model_are_text_too(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE), model_prefix=f"{tmp_path}/m", vocab_size=60, hard_vocab_limit=False,
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, user_defined_symbols=["[CLS]", "[SEP]", "[MASK]"], minloglevel=2,
    )  # fmt: skip
    tokenizer = loading.load(tmp_path / "m.model")
    assert tokenizer.mask_id not in tokenizer.encode(["the [MASK] sat"])[0]
    assert tokenizer.mask_id in tokenizer.encode(["the [MASK] sat"], special=True)[0]


def test_lower_casing_by_line_and_by_character_agree():
    for text in TEXTS + random_texts(2000, seed=2):
        assert sentencepiece_models._lowered(text) == "".join(sentencepiece_models._lowered_characters(text)[0])


@pytest.mark.parametrize("kind", training.KINDS)
def test_training_twice_gives_the_same_bytes(kind, tmp_path):
    size = {"wordpiece": 120, "bpe": 300, "bert-bpe": 300, "unigram": 60, "sentencepiece": 60}[kind]
    script = (
        "import sys\nfrom bert_jax.data.vocabularies import training\n"
        "from tests.data.test_tokenizers import PROSE\n"
        "training.train(sys.argv[1], iter(PROSE), int(sys.argv[2])).save(sys.argv[3])\n"
    )
    for run in "ab":  # other processes: other hash seeds
        command = [sys.executable, "-c", script, kind, str(size), str(tmp_path / run)]
        subprocess.run(command, check=True, cwd=pathlib.Path(__file__).parents[2])
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    tokenizer = loading.load(tmp_path / "a")
    assert tokenizer.vocab_size <= size
    text = "the cat sat"
    assert tokenizer.unk_id not in tokenizer.encode([text])[0]
    assert tokenizer.decode(tokenizer.encode([text])[0]).strip() == text


def test_trained_wordpiece_prefers_frequent_words():
    tokenizer = training.train("wordpiece", PROSE, 120)
    assert len(tokenizer.encode(["the cat"])[0]) == 2
    assert tokenizer.encode(["THE CAT"]) == tokenizer.encode(["the cat"])
    cased = training.train("wordpiece", PROSE, 120, lower_case=False)
    assert cased.encode(["The"]) != cased.encode(["the"])


@pytest.mark.parametrize(
    ("kind", "texts", "size", "message"),
    [
        ("bpe", PROSE, 100, "256 bytes"),
        ("wordpiece", [], 100, "no character"),
        ("sentencepiece", PROSE, 10, "cannot train 10"),
        ("sentencepiece", [], 100, "cannot train"),
        ("unigram", [], 100, "cannot train"),
        ("bert-bpe", PROSE, 100, "256 bytes"),
    ],
)
def test_training_that_cannot_work_is_refused(kind, texts, size, message):
    with pytest.raises(UserError, match=message) as error:
        training.train(kind, texts, size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["[MASK]", "[SEP]", "[CLS]", "[PAD]", "[UNK]"])
def test_a_vocabulary_without_a_special_token_is_refused(tmp_path, missing):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(token for token in VOCABULARY if token != missing) + "\n", "utf-8")
    with pytest.raises(UserError, match=r"vocab\.txt: the vocabulary has no") as error:
        loading.load(path)
    assert missing in str(error.value)


def test_bad_vocabulary_files_are_named(tmp_path):
    def message(path):
        with pytest.raises(UserError) as error:
            loading.load(path)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)
        return str(error.value)

    assert "no such vocabulary" in message(tmp_path / "nothing.txt")
    assert "no vocabulary" in message(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"[PAD]\n\xff\xfe\n")
    assert "not UTF-8" in message(tmp_path / "vocab.txt")
    (tmp_path / "x.json").write_text("{}")
    assert "not a tokenizer.json" in message(tmp_path / "x.json")
    (tmp_path / "x.model").write_bytes(b"nonsense")
    assert "SentencePiece" in message(tmp_path / "x.model")
    (tmp_path / "x.bin").write_bytes(b"nonsense")
    assert "unknown kind" in message(tmp_path / "x.bin")
    bpe = tmp_path / "bpe"
    bpe.mkdir()
    bpe_files(bpe)
    (bpe / "merges.txt").write_text("zz yy\n")
    assert "do not fit" in message(bpe)
    (bpe / "merges.txt").unlink()
    assert "merges.txt" in message(bpe / "vocab.json")


def test_albert_specials_are_found_in_the_model():
    tokenizer = loading.load(shared("vocab/albert/spiece.model"))
    ids = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    assert ids == (0, 1, 2, 3, 4) == tokenizer.special_ids
    assert tokenizer.decode(tokenizer.encode(["Hello World"])[0]) == "hello world"


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
