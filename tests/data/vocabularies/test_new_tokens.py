"""New tokens: old ids stay, text without new words is read as before, and prepare writes what transformers reads."""

import json

import numpy as np
import pytest
import tokenizers as hf
from tokenizers import models, normalizers, pre_tokenizers

from bert_jax.data.corpus import Corpus
from bert_jax.data.preparation import pipeline
from bert_jax.data.vocabularies import hugging_face, loading, new_tokens, training
from bert_jax.errors import UserError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = ["The zebra saw a zebra, zebras, and ZEBRA.", "zebra first", "a  zebra\tand a quagga-zebra", "no new word"]


def _wordpiece():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "-", "the", "and", "ze", "##bra"]
    return hugging_face.wordpiece([*special, *LETTERS, *(f"##{letter}" for letter in LETTERS)], True, "test")


def _bpe():
    return training.train("bpe", ["the zen of bread, a saw and a word"] * 3, 300)


def _unigram():
    """Returns the pipeline of a tokenizer.json such as XLM-R's: normalizer, metaspace, unigram."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*special, "\u2581", "\u2581the", *LETTERS, *LETTERS.upper(), ".", ",", "-"]
    tokenizer = hf.Tokenizer(models.Unigram([(piece, -1.0 * i) for i, piece in enumerate(pieces)], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(special)
    return hugging_face.HuggingFaceTokenizer(tokenizer, "test")


@pytest.mark.parametrize("make", [_wordpiece, _bpe, _unigram])
def test_new_words_are_one_token_and_the_rest_stays(make, tmp_path):
    old = make()
    new, added = new_tokens.extend(old, ["zebra", "a", "zebra", "quagga"], "--add_tokens=x")
    assert added == ["zebra", "quagga"]
    assert [new.token(old.vocab_size + i) for i in range(2)] == added
    assert new.vocab_size == old.vocab_size + 2
    assert new.special_ids == old.special_ids
    assert new_tokens.begins_with(new, old) and not new_tokens.begins_with(old, new)
    assert list(new.encode(["no new word, none"])[0]) == list(old.encode(["no new word, none"])[0])

    zebra, quagga = old.vocab_size, old.vocab_size + 1
    rows, starts = new.encode_with_words(TEXTS)
    counts = [list(row).count(zebra) for row in rows]
    assert counts == ([4, 1, 2, 0] if new.kind == "wordpiece" else [2, 1, 2, 0])  # lower case, and zebra + ##s
    assert quagga in rows[2]
    for row, start in zip(rows, starts, strict=True):
        assert start[np.isin(row, [zebra, quagga])].all()

    new.save(tmp_path)
    again = loading.load(tmp_path)
    assert again.digest() == new.digest()


@pytest.mark.parametrize("make", [_wordpiece, _bpe, _unigram])
def test_pieces_are_how_the_old_vocabulary_writes_the_word(make):
    old = make()
    new, _ = new_tokens.extend(old, ["zebra", "quagga"], "--add_tokens=x")
    pieces = [[old.token(i) for i in ids] for ids in new_tokens.pieces(new, old)]
    inside = [list(old.encode([f"the {word}"])[0])[1:] for word in ("zebra", "quagga")]
    if new.kind == "wordpiece":
        assert pieces[0] == ["ze", "##bra"]
    if new.kind != "unigram":  # whose first piece is the same with and without a word before it
        assert [[old.token(i) for i in ids] for ids in inside][1] == pieces[1]
    assert all(len(ids) > 1 for ids in pieces)


@pytest.mark.parity
@pytest.mark.parametrize("make", [_wordpiece, _bpe, _unigram])
def test_transformers_gives_the_same_ids(make, tmp_path):
    from transformers import AutoTokenizer

    new, _ = new_tokens.extend(make(), ["zebra", "quagga"], "--add_tokens=x")
    new.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == new.vocab_size
    assert theirs(TEXTS, add_special_tokens=False)["input_ids"] == [list(ids) for ids in new.encode(TEXTS)]


@pytest.mark.parametrize("lower_case", [True, False])
def test_words_are_counted_and_added_as_the_vocabulary_reads_them(lower_case):
    tokenizer = training.train("unigram", ["the zen of bread, a saw and a Word"] * 3, 60, lower_case)
    text = "Toute toute libertés Libertés liberte\u0301s"
    found = new_tokens.find(tokenizer, [text], 10)
    extended, added = new_tokens.extend(tokenizer, text.split(), "test")
    expected = ["toute", "libertes"] if lower_case else ["Toute", "toute", "libertés", "Libertés"]
    assert sorted(found) == sorted(added) == sorted(expected)
    assert all(len(row) == 1 for row in extended.encode(text.split()))
    used = {i for row in extended.encode(text.split()) for i in row}
    assert used == set(range(tokenizer.vocab_size, extended.vocab_size))


def test_words_that_save_the_most_tokens():
    old = _wordpiece()
    text = ["Zebra! the okapi saw 1984 zebras"] + ["okapi and the okapi-zebra"] * 2 + ["\u03b1\u03b2\u03b3"]
    # zebra: 3 x (2 - 1); okapi: 5 x 4; zebras: 1 x 2; saw: 1 x 2; an unknown word counts twice.
    assert new_tokens.find(old, text, 3) == ["okapi", "zebra", "saw"]
    assert new_tokens.find(old, text, 99) == ["okapi", "zebra", "saw", "zebras", "\u03b1\u03b2\u03b3"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("covid-nine\n", r"reads 'covid-nine' as 3 words \(covid - nine\)"),
        ("okapi\nnew york\n", "words.txt:2: found 'new york'; expected one word a line"),
        ("\n", "words.txt: empty; expected one word a line"),
        (None, "words.txt: cannot be read"),
    ],
)
def test_words_that_cannot_be_added(tmp_path, words, message):
    if words is not None:
        (tmp_path / "words.txt").write_text(words)
    with pytest.raises(UserError, match=message) as caught:
        new_tokens.extend(_wordpiece(), new_tokens.read(tmp_path / "words.txt"), "--add_tokens=words.txt")
    assert "\n" not in str(caught.value)


def test_sentencepiece_is_refused():
    model = training.train("sentencepiece", ["the zen of bread, a saw and a word"] * 20, 40)
    with pytest.raises(UserError, match="--add_tokens=3: a sentencepiece .model cannot be extended"):
        new_tokens.extend(model, ["zebra"], "--add_tokens=3")


def test_different_vocabularies_are_no_continuation():
    old = _wordpiece()
    tokens = [old.token(i) for i in range(old.vocab_size)]
    assert new_tokens.begins_with(hugging_face.wordpiece([*tokens, "x1"], True, ""), old)
    assert not new_tokens.begins_with(hugging_face.wordpiece(tokens, False, ""), old)  # reads capitals differently
    tokens[20], tokens[21] = tokens[21], tokens[20]
    assert not new_tokens.begins_with(hugging_face.wordpiece(tokens, True, ""), old)


@pytest.fixture
def settings(tmp_path):
    """Returns a function that makes the settings of a corpus; `tokenizer` is a run's workdir by default."""
    _wordpiece().save(tmp_path / "run" / "tokenizer")
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "text.txt").write_text("the okapi saw the zebra\n" * 4)

    def make(**changes):
        return pipeline.Settings(
            **{
                "input": str(tmp_path / "text.txt"),
                "tokenizer": str(tmp_path / "run"),
                "sentences": "line",
                "eval_share": 0.0,
            }
            | changes
        )

    return make


def test_prepare_with_a_file_of_words(settings, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("Okapi\nthe\n")
    manifest = pipeline.prepare(settings(add_tokens=str(words)), tmp_path / "corpus", workers=1, progress=False)
    old = _wordpiece()
    corpus = Corpus.open(tmp_path / "corpus")
    assert corpus.vocab_size == old.vocab_size + 1
    assert np.count_nonzero(corpus.split("train").shards[0].tokens == old.vocab_size) == 4
    assert manifest["tokenizer"]["new_tokens"] == ["okapi"]
    assert "1 new tokens: okapi" in pipeline.summary(manifest, tmp_path / "corpus")

    words.write_text("okapi\nsaw\n")  # the same command with other words is other work
    with pytest.raises(UserError, match="holds a corpus, perhaps unfinished, made with tokenizer="):
        pipeline.prepare(settings(add_tokens=str(words)), tmp_path / "corpus", workers=1, progress=False)


def test_prepare_with_words_of_the_text(settings, tmp_path):
    manifest = pipeline.prepare(settings(add_tokens="2"), tmp_path / "corpus", workers=1, progress=False)
    assert manifest["tokenizer"]["new_tokens"] == ["okapi", "saw"]  # 4 x 4, 4 x 2; zebra 4 x 1
    assert json.loads((tmp_path / "corpus" / "tokenizer" / "new_tokens.json").read_text()) == ["okapi", "saw"]
    assert pipeline.prepare(settings(add_tokens="2"), tmp_path / "corpus", workers=1, progress=False) == manifest
    with pytest.raises(UserError, match="add_tokens=2"):
        pipeline.prepare(settings(), tmp_path / "corpus", workers=1, progress=False)


def test_a_corpus_from_before_new_tokens_is_still_whole(settings, tmp_path):
    manifest = pipeline.prepare(settings(), tmp_path / "corpus", workers=1, progress=False)
    del manifest["settings"]["add_tokens"]
    (tmp_path / "corpus" / "manifest.json").write_text(json.dumps(manifest))
    assert pipeline.prepare(settings(), tmp_path / "corpus", workers=1, progress=False) == manifest


def test_new_tokens_need_a_vocabulary_to_extend(settings, tmp_path):
    with pytest.raises(UserError, match="--add_tokens=3: not with --tokenizer=train:wordpiece:100"):
        pipeline.prepare(settings(tokenizer="train:wordpiece:100", add_tokens="3"), tmp_path / "corpus")
