"""Trained vocabularies are the same every time, and impossible ones are refused."""

import pathlib
import subprocess
import sys

import pytest

from bert_jax.data.vocabularies import loading, training
from bert_jax.errors import UserError
from tests.data.awkward import PROSE

SIZES = {"wordpiece": 120, "bpe": 300, "bert-bpe": 300, "unigram": 60, "sentencepiece": 60}
TRAIN_ALL = """
import sys
from bert_jax.data.vocabularies import training
from tests.data.awkward import PROSE
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
        ("unigram", [], 100, "cannot train"),
        ("bert-bpe", PROSE, 100, "256 bytes"),
    ],
)
def test_training_that_cannot_work_is_refused(kind, texts, size, message):
    with pytest.raises(UserError, match=message) as error:
        training.train(kind, texts, size)
    assert "\n" not in str(error.value)
