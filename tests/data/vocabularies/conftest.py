"""Small tokenizers of every kind that the tests share."""

import pytest

from bert_jax.data.vocabularies import loading, training
from tests.data.awkward import PROSE, VOCABULARY, bpe_files


@pytest.fixture(scope="session")
def wordpiece_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("wordpiece") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bpe")
    bpe_files(folder)
    return folder


@pytest.fixture(scope="session")
def sentencepiece_tokenizer():
    return training.train("sentencepiece", PROSE, 60)


@pytest.fixture(scope="session")
def loaded(wordpiece_file, bpe_folder, sentencepiece_tokenizer):
    return {
        "uncased": loading.load(wordpiece_file, lower_case=True),
        "cased": loading.load(wordpiece_file, lower_case=False),
        "bpe": loading.load(bpe_folder),
        "sentencepiece": sentencepiece_tokenizer,
    }
