"""Corpora that the data tests share, prepared from text that is generated here."""

import random
import string

import pytest

from bert_jax import config as config_lib
from bert_jax import files
from bert_jax.data.preparation import pipeline

LETTERS = string.ascii_lowercase
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ","),
    *(a + b for a in LETTERS for b in LETTERS[:12]),
    *(f"##{letter}" for letter in LETTERS),
]


def word(rng):
    """Returns a word that is one token."""
    return rng.choice(LETTERS) + rng.choice(LETTERS[:12])


def text(num_documents, seed, most_sentences=12, most_words=14):
    """Returns documents, one sentence a line, between blank lines; words of two letters, or of several pieces."""
    rng = random.Random(seed)
    documents = []
    for _ in range(num_documents):
        lines = []
        for _ in range(rng.randint(1, most_sentences)):
            words = [
                word(rng) + "".join(rng.choices(LETTERS, k=rng.choice([0, 0, 1, 3])))
                for _ in range(rng.randint(1, most_words))
            ]
            lines.append(" ".join(words) + " .")
        documents.append("\n".join(lines))
    documents.insert(5, " ".join(word(rng) for _ in range(300)))  # one sentence longer than a row
    return "\n\n".join(documents) + "\n"


@pytest.fixture(scope="module", autouse=True)
def no_flushing():
    """Does not flush files to the disk, which matters only when a machine crashes and takes most of a test's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_sync", lambda path: None)
        yield


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory):
    """Returns a function make(text, name) that prepares a corpus, one sentence a line, and returns its directory."""
    folder = tmp_path_factory.mktemp("corpora")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")

    def make(content, name, eval_share=0.1):
        (folder / f"{name}.txt").write_text(content)
        settings = pipeline.Settings(
            input=str(folder / f"{name}.txt"),
            tokenizer=str(folder / "vocab.txt"),
            sentences="line",
            eval_share=eval_share,
        )
        pipeline.prepare(settings, folder / name, workers=1, progress=False)
        return folder / name

    return make


@pytest.fixture(scope="session")
def small_corpus(make_corpus):
    return make_corpus(text(120, seed=0), "small")


@pytest.fixture(scope="session")
def other_corpus(make_corpus):
    return make_corpus(text(30, seed=1), "other")


@pytest.fixture
def config(small_corpus):
    """Returns a config of rows of 48 tokens of the small corpus."""
    config = config_lib.base()
    config.data.corpus = str(small_corpus)
    config.data.sequence_length = 48
    config.data.batch_size = 16
    config.train.num_steps = 100_000
    return config
