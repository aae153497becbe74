"""Compares the ids of awkward Unicode with AutoTokenizer's, for every kind of vocabulary (make test-parity)."""

import pytest

from bert_jax.data.vocabularies import loading
from tests.data.awkward import TEXTS, random_texts, shared

pytestmark = pytest.mark.parity


def test_every_vocabulary(tmp_path):
    import transformers

    from experiments.parity import tokens

    for name, directory in tokens.vocabularies(tmp_path, shared("vocab").parent):
        row = tokens.compare(directory, name)
        assert not row.failed, row
        # The same through what transformers makes of it, and through our own copy.
        theirs = transformers.AutoTokenizer.from_pretrained(directory)
        theirs.save_pretrained(directory / "theirs")
        ours = loading.load(directory)
        ours.save(directory / "ours")
        texts = TEXTS + random_texts(300, seed=7)
        expected = theirs(texts, add_special_tokens=False)["input_ids"]
        for folder in (directory, directory / "theirs", directory / "ours"):
            assert loading.load(folder).encode(texts, special=True) == expected, folder
            again = transformers.AutoTokenizer.from_pretrained(folder)
            assert again(texts, add_special_tokens=False)["input_ids"] == expected, folder
