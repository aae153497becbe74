"""A corpus whose bits have changed is named with file and place, before training and where its rows are made."""

import pathlib
import shutil

import numpy as np
import pytest

from bert_jax.data import corpus, instances, verification
from bert_jax.data.corpus import Corpus
from bert_jax.data.stream import Stream
from bert_jax.errors import UserError


@pytest.fixture
def copy(small_corpus, tmp_path):
    shutil.copytree(small_corpus, tmp_path / "corpus")
    shutil.rmtree(tmp_path / "corpus" / "index", ignore_errors=True)
    return tmp_path / "corpus"


def change(path, place, value, byte=None):
    array = np.load(path, mmap_mode="r+")
    array[place] = value(array[place]) if callable(value) else value
    array.flush()


def tokens_of(folder, split="train"):
    return next((folder / split).glob("*.tokens.npy"))


def test_a_whole_corpus_is_verified(small_corpus, other_corpus):
    for path in (small_corpus, other_corpus):
        verification.verify(Corpus.open(path))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: change(tokens_of(f), 5, 60000),
         r"tokens.npy: token 5 \(byte 138\) has id 60,000; expected below [\d,]+, as many as the vocabulary has"),
        (lambda f: change(tokens_of(f, "eval"), 0, 65535), r"eval/\w+.tokens.npy: token 0 \(byte 128\) has id 65,535"),
        (lambda f: change(tokens_of(f), 7, lambda token: token ^ 1),
         r"tokens.npy \(tokens of ids .* are more or fewer than unigram.npy counts\): its bits have changed"),
        (lambda f: change(tokens_of(f, "eval"), 7, lambda token: token ^ 1), r"\(its word starts, .*: its bits"),
        (lambda f: change(next((f / "train").glob("*.word_starts.npy")), 3, lambda bits: bits ^ 8), "its bits ha"),
        (lambda f: change(f / "train" / "sentences.npy", 4, -3), r"sentences.npy: entry 4 \(byte 160\) is -3 after"),
        (lambda f: change(f / "train" / "sentences.npy", 4, 2**40), r"sentences.npy: entry 5 \(byte 168\) is .* after"),
        (lambda f: change(f / "eval" / "documents.npy", -1, 1 << 30), "documents.npy: entry .* that rise from 0"),
        (lambda f: change(f / "train" / "documents.npy", 0, 1), r"documents.npy: entry 0 \(byte 128\) is 1;"),
        (lambda f: change(f / "train" / "unigram.npy", 9, -1), "unigram.npy: counts .* tokens; expected"),
        (lambda f: cut(tokens_of(f)), "tokens.npy: missing or cut off"),
        (lambda f: cut(f / "train" / "documents.npy"), "documents.npy: missing or cut off"),
    ],
)  # fmt: skip
def test_what_has_changed_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message) as error:
        verification.verify(Corpus.open(copy))
    assert "\n" not in str(error.value) and "prepare the corpus again" in str(error.value)


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize("changes", [{}, {"data.format": "full_sentences", "objective.next_sentence": False},
                                     {"data.format": "full_sentences", "objective.next_sentence": False,
                                      "data.packing": True, "data.mask_unit": "whole_word"}])  # fmt: skip
def test_ids_of_a_large_corpus_are_checked_where_rows_are_made(copy, config, changes):
    for path in copy.glob("train/*.tokens.npy"):
        array = np.load(path, mmap_mode="r+")
        array[::3] = 65535
    verification.verify(Corpus.open(copy), largest=0)
    config.data.corpus = str(copy)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=r"tokens.npy: token [\d,]+ \(byte [\d,]+\) has id 65,535"):
        Stream(config).batch(0)


def test_a_damaged_index_is_built_again_and_named_where_no_checksum_tells_of_it(copy, config):
    config.data.corpus = str(copy)
    expected = Stream(config).batch(3)
    (path,) = (copy / "index").glob("train-*.npy")
    whole = path.read_bytes()
    cut(path)
    assert (Stream(config).batch(3)["input_ids"] == expected["input_ids"]).all()
    assert path.read_bytes() == whole
    array = np.load(path, mmap_mode="r+")
    array["a_start"] += 1
    array.flush()
    assert (Stream(config).batch(3)["input_ids"] == expected["input_ids"]).all()
    assert path.read_bytes() == whole
    path.with_suffix(".crc32").unlink()  # as an earlier version left it
    array = np.load(path, mmap_mode="r+")
    array["a_start"] += 1 << 50
    array.flush()
    with pytest.raises(UserError, match="index: an instance has tokens .* the index was damaged; remove that folder"):
        Stream(config).batch(3)
    config.update_from_flattened_dict({"data.format": "full_sentences", "objective.next_sentence": False})
    recipe = instances.Recipe("full_sentences", 48)
    index = instances.open_index(Corpus.open(copy), "train", recipe)
    array = np.load(index.filename, mmap_mode="r+")
    pathlib.Path(index.filename).with_suffix(".crc32").unlink()
    array["document"] += 1 << 40
    array.flush()
    with pytest.raises(UserError, match="the index was damaged"):
        Stream(config).batch(0)


def test_ids_of_four_bytes():
    class Shard:
        file, tokens = "x.tokens.npy", np.array([1, 2**31 + 5], np.uint32)
        offset = corpus.Shard.offset

    with pytest.raises(UserError, match=r"token 1 \(byte 132\) has id 2,147,483,653"):
        verification.check_ids(Shard(), Shard.tokens, 0, 70_000)
