"""Trained vocabularies are the same every time, and impossible ones are refused."""

import itertools
import pathlib
import subprocess
import sys

import pytest

from bert_jax.data.vocabularies import fit, loading, tokenizer_classes, training
from bert_jax.errors import UserError
from tests.data import many_scripts
from tests.data.awkward import PROSE, TEXTS

SIZES = {"wordpiece": 120, "bpe": 300, "bert-bpe": 300, "unigram": 60, "sentencepiece": 60}
TRAIN_ALL = """
import sys
from bert_jax.data.vocabularies import training
from tests.data import many_scripts
from tests.data.awkward import PROSE, TEXTS
from tests.data.vocabularies.test_training import SIZES
for kind, size in SIZES.items():
    training.train(kind, iter(PROSE), size).save(f"{sys.argv[1]}/{kind}")
"""


@pytest.fixture(scope="module")
def trained_twice(tmp_path_factory):
    """Trains every kind of vocabulary in two processes with different hash seeds; returns their folders."""
    folders = [tmp_path_factory.mktemp(name) for name in "ab"]
    for folder in folders:
        command = [sys.executable, "-c", TRAIN_ALL, str(folder)]
        subprocess.run(command, check=True, cwd=pathlib.Path(__file__).parents[3])
    return folders


@pytest.mark.parametrize("kind", training.KINDS)
def test_training_twice_gives_the_same_bytes(kind, trained_twice):
    first, second = (folder / kind for folder in trained_twice)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    tokenizer = loading.load(first)
    assert tokenizer.vocab_size <= SIZES[kind]
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
        ("wordpiece", PROSE, 6, "cannot train 6 tokens: no character of the text fits beside 5 special tokens"),
        ("wordpiece", [" "], 100, "cannot train 100 tokens: the text holds no character to learn"),
        ("unigram", [], 100, "cannot train"),
        ("bert-bpe", PROSE, 100, "256 bytes"),
        ("unigram", ["".join(map(chr, range(0x4E00, 0x4F00)))] * 3, 100, "the text's characters need 2[56]"),
        ("bpe", ["abc"], 300, "no two bytes of the text stand together twice"),
        ("bpe", [], 300, "no two bytes of the text stand together twice"),
    ],
)
def test_training_that_cannot_work_is_refused(kind, texts, size, message):
    with pytest.raises(UserError, match=message) as error:
        training.train(kind, texts, size)
    assert "\n" not in str(error.value)


def test_text_is_cut_before_spaces():
    text = "word " * 5000 + "x" * 9000 + " end"
    pieces = list(training.cut(text))
    assert "".join(pieces) == text and max(map(len, pieces)) <= 4096
    assert all(piece.startswith(" ") or piece.startswith("x") for piece in pieces[1:])
    assert list(training.cut("")) == [] and list(training.cut("short")) == ["short"]


@pytest.mark.parametrize("kind", training.KINDS)
def test_no_text_falls_out_for_its_length_or_its_characters(kind):
    """A string over a megabyte, and one with a character that SentencePiece keeps for itself."""
    long = " ".join(PROSE) + " ended " * 170_000 + "zebra " * 5
    tokenizer = training.train(kind, [long, "a \u2585 bar \u2585 of a chart"] * 2, 2 * SIZES[kind])
    assert len(long) > 1 << 20
    for text in ("ended", "zebra", "\u2585"):
        ids = tokenizer.encode([text])[0]
        assert tokenizer.unk_id not in ids and tokenizer.decode(ids).strip() == text
    assert len(tokenizer.encode([" ended"])[0]) == 1


def _ideographs(count):
    """Returns sentences of so many different ideographs, the first of them in more sentences."""
    return ["".join(chr(0x4E00 + i) for i in range(count // step)) + "\u3002" for step in range(1, 9)] * 3


def test_an_alphabet_covers_the_text_and_has_no_entry_that_cannot_occur():
    texts = _ideographs(2500)
    tokenizer = training.train("wordpiece", texts, 8000)
    tokens = {tokenizer.token(i) for i in range(tokenizer.vocab_size)}
    assert not [token for token in tokens if token.startswith("##")]
    assert fit.measure(tokenizer, texts).unknown_share <= 1 - training.COVERAGE
    assert 2400 < len(tokens) <= 2506
    mixed = training.train("wordpiece", [*texts, *PROSE], 8000)
    seen = {mixed.token(i) for text in [*texts, *PROSE] for i in mixed.encode([text])[0]}
    ends = {mixed.token(i) for i in range(mixed.vocab_size)} - seen
    assert not [token for token in ends if token.startswith("##") and not token[2:].isalpha()]
    assert not [token for token in ends if token.startswith("##") and token[2:] > "z"]


def test_rare_characters_are_left_out_of_a_full_alphabet():
    common = ["\u4e00\u4e8c\u4e09" * 2000] * 20
    rare = ["".join(chr(0x5000 + i) for i in range(50))]
    tokenizer = training.train("wordpiece", [*common, *rare], 100)  # a quarter for characters, however rare
    ids = tokenizer.encode(rare)[0]
    assert list(ids).count(tokenizer.unk_id) == 50 - 22
    assert tokenizer.vocab_size == 5 + 25


def test_english_keeps_the_entries_that_it_had():
    """As in BERT's own vocabularies, each of its characters has an entry for its places inside words."""
    tokenizer = training.train("wordpiece", PROSE, 120)
    tokens = {tokenizer.token(i) for i in range(tokenizer.vocab_size)}
    assert {"##.", "##,", "##a"} <= tokens


def test_words_of_scripts_without_spaces_are_cut():
    thai = "\u0e01\u0e32\u0e23\u0e17\u0e14\u0e2a\u0e2d\u0e1a" * 50
    tokenizer = training.train("wordpiece", [thai, "a b"] * 3, 200)
    assert tokenizer.unk_id not in tokenizer.encode([thai])[0]
    plain = training.train("wordpiece", [*PROSE * 150, "x" * 101], 120)  # one such word in English stays unknown
    assert plain.encode(["x" * 101])[0] == [plain.unk_id]


@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_text_is_normalised_as_by_the_pipeline(lower_case, strip_accents):
    normalizer = tokenizer_classes.unigram_normalizer(lower_case, strip_accents)
    printable = "".join(map(chr, range(32, 127)))
    quotes = ["".join(quotes) for quotes in itertools.product("'`A", repeat=5)]
    for text in [printable, "a\tb", "", *quotes, *TEXTS, *many_scripts.TEXTS.values()]:
        assert training._normalized(text, normalizer, lower_case) == normalizer.normalize_str(text)


@pytest.mark.parametrize("kind", training.KINDS)
def test_the_smallest_size_is_one_that_can_be(kind):
    text = ["\u4e2d \u4e2d"] * 20 if kind == "wordpiece" else ["aaaa aa a a"] * 100
    size = training.SMALLEST[kind]
    assert training.train(kind, text, size).vocab_size == size
    with pytest.raises(UserError):
        training.train(kind, text, size - 1)
