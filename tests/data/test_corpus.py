"""The corpus on disk: what is written is read, and what is damaged is named."""

import json
import shutil

import numpy as np
import pytest

from bert_jax.data.corpus import ArrayFile, Corpus, SplitWriter, token_dtype
from bert_jax.errors import UserError


def test_array_file_is_a_npy_file(tmp_path):
    file = ArrayFile(tmp_path / "a.npy", "<i4")
    file.append(np.arange(5))
    file.append(np.arange(100, 103))
    file.truncate(6)
    file.append(np.array([7]))
    file.close()
    assert np.load(tmp_path / "a.npy", mmap_mode="r").tolist() == [0, 1, 2, 3, 4, 100, 7]
    assert np.load(tmp_path / "a.npy").dtype == np.int32
    empty = ArrayFile(tmp_path / "b.npy", "<u8", columns=2)
    empty.close()
    assert np.load(tmp_path / "b.npy").shape == (0, 2)


def test_rewinding_a_split_leaves_no_trace(tmp_path):
    rng = np.random.default_rng(0)

    def add(writer, length):
        tokens, starts = rng.integers(0, 100, length), rng.random(length) < 0.5
        writer.add(tokens, starts, [length], [1], rng.integers(0, 9, (1, 2)))
        return tokens, starts

    writer = SplitWriter(f"{tmp_path}/train", 100)
    kept = [add(writer, length) for length in (3, 8, 13)]
    mark = writer.mark()
    add(writer, 29)
    writer.rewind(mark)
    kept.append(add(writer, 5))
    writer.close()
    tokens, starts = (np.concatenate(columns) for columns in zip(*kept, strict=True))
    assert np.load(tmp_path / "train.tokens.npy").tolist() == tokens.tolist()
    packed = np.load(tmp_path / "train.word_starts.npy")
    assert np.unpackbits(packed)[: len(starts)].tolist() == starts.astype(int).tolist()
    assert np.load(tmp_path / "train.sentences.npy").tolist() == [3, 8, 13, 5]


def test_tokens_are_as_narrow_as_the_vocabulary_allows():
    assert token_dtype(65535).itemsize == 2
    assert token_dtype(65536).itemsize == 4


def test_the_arrays_fit_together(small_corpus):
    corpus = Corpus.open(small_corpus)
    counts = np.zeros(corpus.vocab_size, np.int64)
    for name in ("train", "eval"):
        split = corpus.split(name)
        assert split.num_documents == len(split.documents) - 1 == corpus.manifest["splits"][name]["documents"] > 0
        assert split.documents[0] == split.sentences[0] == split.shard_starts[0] == 0
        assert split.documents[-1] == split.num_sentences
        assert split.sentences[-1] == split.num_tokens == sum(len(shard.tokens) for shard in split.shards)
        assert (np.diff(split.sentences) > 0).all() and (np.diff(split.documents) > 0).all()
        starts = split.sentences[split.documents]
        assert set(split.shard_starts) <= set(starts.tolist()), "a document crosses a shard"
        for shard in split.shards:
            assert len(shard.word_starts) == -(-len(shard.tokens) // 8)
            assert shard.tokens.dtype == np.uint16
        if name == "train":
            counts = sum(np.bincount(shard.tokens, minlength=corpus.vocab_size) for shard in split.shards)
    assert corpus.unigram_counts.tolist() == counts.tolist()
    assert corpus.tokenizer.vocab_size == corpus.vocab_size


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "manifest.json").unlink(), "no manifest.json"),
        (lambda path: shutil.rmtree(path), "no such corpus"),
        (lambda path: (path / "manifest.json").write_text("{"), "not a corpus manifest"),
        (lambda path: _edit(path, format_version=99), "format_version 99; expected 1"),
        (lambda path: (path / "train" / "documents.npy").unlink(), "documents.npy: missing"),
        (lambda path: _cut(path / "train" / "sentences.npy"), "sentences.npy: missing or cut off"),
        (
            lambda path: (path / "train" / "sentences.npy").write_bytes(b""),
            "sentences.npy: missing or cut off .No data",
        ),
        (
            lambda path: np.save(path / "train" / "documents.npy", np.array(7)),
            "documents.npy: 1 entries, but the manif",
        ),
        (lambda path: _cut(next((path / "train").glob("*.tokens.npy"))), "tokens.npy: missing or cut off"),
    ],
)
def test_a_damaged_corpus_is_named(small_corpus, tmp_path, damage, message):
    path = tmp_path / "corpus"
    shutil.copytree(small_corpus, path)
    damage(path)
    with pytest.raises(UserError, match=message) as error:
        split = Corpus.open(path).split("train")
        _ = split.shards[0].tokens
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def _edit(path, **values):
    manifest = json.loads((path / "manifest.json").read_text()) | values
    (path / "manifest.json").write_text(json.dumps(manifest))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-50])
