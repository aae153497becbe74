"""Long texts as rows: what is kept of them, their chunks, and the lengths that rows are padded to."""

import numpy as np
import pytest

from bert_jax.data import long_texts
from bert_jax.data.long_texts import LongReading
from bert_jax.data.tasks import words
from bert_jax.data.vocabularies import loading

CLS, SEP = 2, 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b")))
    return loading.load(path)


def test_head_and_tail(tokenizer):
    """Sun et al. 2019, section 5.3.1: the first 128 and the last 382 tokens of rows of 512."""
    reading = LongReading("head_tail", 512, 128)
    room = reading.room(tokenizer)
    assert room == 510
    kept = reading.kept(list(range(1000)), room)
    assert kept == [*range(128), *range(1000 - 382, 1000)]
    assert reading.kept(list(range(510)), room) == list(range(510))
    assert LongReading("head_tail", 12, 128).kept(list(range(30)), 10) == list(range(10))  # no room for an end
    assert LongReading("truncate", 512).kept(list(range(1000)), 510) == list(range(510))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8, 9, 12, 13, 40])
def test_rows_of_chunks(tokenizer, size):
    """Each chunk has special tokens of its own, all but the last are full, and the length is known beforehand."""
    reading = LongReading("chunks", 18, chunk_length=6)
    ids = reading.kept(list(range(10, 10 + size)), reading.room(tokenizer))
    assert len(ids) == min(size, 12)
    row, types = reading.row(tokenizer, ids)
    assert len(row) == len(types) == reading.lengths(tokenizer, np.array([len(ids)]))[0] <= 18
    chunks = [row[start : start + 6] for start in range(0, len(row), 6)]
    assert all(chunk[0] == CLS and chunk[-1] == SEP for chunk in chunks)
    assert all(len(chunk) == 6 for chunk in chunks[:-1])
    assert [i for chunk in chunks for i in chunk[1:-1]] == ids


def test_lengths_of_rows():
    assert long_texts.bucket_lengths((16, 32, 64, 128), 64) == (16, 32, 64)
    assert long_texts.bucket_lengths((16, 32, 64), 16) == (16,)
    lengths = long_texts.bucket_lengths((16, 32, 64, 128), 32 * 20, 32)
    assert lengths == (16, *(32 * number for number in (1, 2, 3, 4, 6, 8, 12, 16, 20)))


@pytest.mark.parametrize("seed", range(4))
def test_words_in_chunks(tokenizer, seed):
    """Every word is labelled once, where all of it is read; chunks are full but for the last of a text."""
    generator = np.random.default_rng(seed)
    reading = LongReading("chunks", 18, chunk_length=6)
    pieces = [[10 * i + j for j in range(generator.integers(0, 4))] for i in range(generator.integers(1, 25))]
    read = []
    for window, ids, types, columns in words.rows(tokenizer, pieces, reading):
        assert window.start == window.own_start == len(read) and window.stop == window.own_stop
        assert len(ids) == len(types) <= 18 and len(columns) == window.stop - window.start
        chunks = [ids[start : start + 6] for start in range(0, len(ids), 6)]
        assert all(len(chunk) == 6 for chunk in chunks[:-1])
        assert all(chunk[0] == CLS and chunk[-1] == SEP for chunk in chunks)
        for word, column in zip(pieces[window.start : window.stop], columns, strict=True):
            assert (column == -1) == (not word)
            if word:
                assert ids[column : column + len(word)] == word and column % 6 + len(word) < 6
        read += columns
    assert len(read) == len(pieces)


def test_a_text_of_one_chunk_is_a_row(tokenizer):
    reading = LongReading("chunks", 18, chunk_length=6)
    ((window, ids, _, columns),) = words.rows(tokenizer, [[7], [], [8, 9]], reading)
    assert ids == [CLS, 7, 8, 9, SEP] and columns == [1, -1, 2] and window == (0, 3, 0, 3)
    ((window, ids, _, columns),) = words.rows(tokenizer, [], reading)
    assert ids == [CLS, SEP] and columns == [] and window == (0, 0, 0, 0)
