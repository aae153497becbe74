"""Runs of seconds on text that is easy to learn, to be broken on purpose."""

import json
import random

import pytest

from bert_jax.data.preparation import pipeline
from bert_jax.diagnosis import reading, report
from tests.training.conftest import WORDS, compiled_quickly, make_config, programs  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def compiled(programs):  # noqa: F811
    with compiled_quickly(programs):
        yield programs


def chains(documents, seed=0, sentences=6):
    """Documents in which each word follows from the one before: what stands around a mask tells it."""
    draw = random.Random(seed)

    def sentence():
        start = draw.randrange(len(WORDS))
        return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(draw.randint(6, 12))) + " ."

    return ["\n".join(sentence() for _ in range(sentences)) for _ in range(documents)]


def soup(documents, seed=0, sentences=6):
    """Documents in which no word says anything about another."""
    draw = random.Random(seed)
    weights = range(1, len(WORDS) + 1)
    return [
        "\n".join(
            " ".join(draw.choices(WORDS, weights=weights, k=draw.randint(6, 12))) + " ." for _ in range(sentences)
        )
        for _ in range(documents)
    ]


def prepared(path, texts, vocabulary=WORDS, **settings):
    """The corpus of documents, in `path`."""
    path.mkdir(parents=True)
    (path / "text.txt").write_text("\n\n".join(texts) + "\n")
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *vocabulary]) + "\n")
    settings = {"eval_share": 0.1, "sentences": "line"} | settings
    settings = pipeline.Settings(input=str(path / "text.txt"), tokenizer=str(path / "vocab.txt"), **settings)
    pipeline.prepare(settings, path / "corpus", workers=1, progress=False)
    return path / "corpus"


def recipe(corpus, **changes):
    """A run that learns chains in a few hundred steps, with changes by dotted key."""
    config = make_config(corpus)
    config.model.update(hidden_size=64, intermediate_size=128, initializer_range=0.06, pooler=False)
    config.objective.next_sentence = False
    config.data.update(format="doc_sentences", batch_size=16, mask_rate=0.2)
    config.optimizer.update(learning_rate=3e-3, warmup_steps=30)
    config.train.update(num_steps=300, log_every=5, eval_every=100, eval_batches=4, checkpoint_every=300)
    config.train.update(tensorboard=False, progress=False)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def findings(workdir, plan=None):
    """What is found, by name; and the text."""
    run = reading.read(str(workdir))
    found = report.diagnose(run, plan)
    json.dumps(report.as_json(found), allow_nan=False)
    return {one.name: one for one in found}, report.in_words(run, found, plan)


@pytest.fixture(scope="session")
def chain_corpus(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("chains") / "made", chains(300))
