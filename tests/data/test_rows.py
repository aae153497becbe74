"""Rows of texts and pairs."""

import itertools

import numpy as np
import pytest
import tokenizers as hf
from tokenizers import models, pre_tokenizers, processors

from bert_jax.data import rows
from bert_jax.data.vocabularies.tokenizer import Frame


@pytest.fixture(scope="module")
def reference():
    """Returns a pipeline of the `tokenizers` package that joins and truncates pairs as BERT."""
    tokenizer = hf.Tokenizer(models.WordLevel({"[CLS]": 0, "[SEP]": 1, "a": 2, "b": 3}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return tokenizer


class Bert:
    cls_id, pad_id, frame = 0, 9, Frame.usual(0, 1, 1)


class Roberta(Bert):
    frame = Frame.usual(0, 1, 2)


class Llama(Bert):
    """A begin-of-text before each text, nothing behind."""

    frame = Frame((0,), (), (0,), (), ((1,), 1, ()))


def test_pairs_are_cut_and_joined_as_tokenizers_does(reference):
    for first, second, length in itertools.product((0, 1, 2, 5, 6, 7, 12), (0, 1, 3, 6, 9), (5, 6, 9, 12)):
        reference.enable_truncation(length)
        expected = reference.encode("a " * first, "b " * second)
        kept = rows.truncate_pair(first, second, length - rows.num_special(Bert, pair=True))
        ids, segments = rows.join(Bert, [2] * kept[0], [3] * kept[1])
        assert (ids, segments) == (expected.ids, expected.type_ids), (first, second, length)


def test_joining():
    assert rows.join(Bert, [5, 6]) == ([0, 5, 6, 1], [0] * 4)
    assert rows.join(Roberta, [5], [6]) == ([0, 5, 1, 1, 6, 1], [0] * 6)
    assert rows.join(Llama, [5], [6]) == ([0, 5, 0, 6], [0, 0, 1, 1]) and rows.join(Llama, [5]) == ([0, 5], [0, 0])
    assert [rows.second_start(kind, 7) for kind in (Bert, Roberta, Llama)] == [9, 10, 9]
    assert (rows.num_special(Llama, True), rows.num_special(Llama, False)) == (2, 1)
    assert (rows.num_special(Roberta, True), rows.num_special(Bert, True), rows.num_special(Bert, False)) == (4, 3, 2)


def test_padding_and_buckets():
    batch = rows.pad(Bert, [([0, 5, 1], [0, 0, 1])], 4, num_rows=2)
    assert batch["input_ids"].tolist() == [[0, 5, 1, 9], [0, 9, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    assert [rows.bucket(length, 100) for length in (1, 16, 17, 96, 97)] == [16, 16, 32, 96, 100]
    assert rows.bucket(50, 100, buckets=(20,)) == 100


def test_ragged_lists():
    lists = [[1, 2], [], [3], [4, 5, 6]]
    ragged = rows.Ragged(lists)
    assert [ragged[i].tolist() for i in range(len(ragged))] == lists
    assert ragged.lengths.tolist() == [2, 0, 1, 3] and ragged.lengths.dtype == np.int32
    assert [part.tolist() for part in ragged.strided(1, 2)] == [[], [4, 5, 6]]
    assert len(rows.Ragged([])) == 0
