"""Shared parts of the tests of diagnosis: runs of seconds on text that is easy to learn, to be broken on purpose."""

import json
import random
import shutil

import pytest

from bert_jax.data.preparation import pipeline
from bert_jax.diagnosis import reading, report
from bert_jax.training import pretraining
from tests.training.conftest import WORDS, compiled_quickly, make_config


@pytest.fixture(scope="module", autouse=True)
def compiled(programs):
    with compiled_quickly(programs):
        yield programs


def chains(documents, seed=0, sentences=6):
    """Returns documents in which each word follows from the one before, so that the context predicts a mask."""
    draw = random.Random(seed)

    def sentence():
        start = draw.randrange(len(WORDS))
        return " ".join(WORDS[(start + i) % len(WORDS)] for i in range(draw.randint(6, 12))) + " ."

    return ["\n".join(sentence() for _ in range(sentences)) for _ in range(documents)]


def soup(documents, seed=0, sentences=6):
    """Returns documents of independent words."""
    draw = random.Random(seed)
    weights = range(1, len(WORDS) + 1)
    return [
        "\n".join(
            " ".join(draw.choices(WORDS, weights=weights, k=draw.randint(6, 12))) + " ." for _ in range(sentences)
        )
        for _ in range(documents)
    ]


def prepared(path, texts, vocabulary=WORDS, **settings):
    """Prepares a corpus of these documents in `path`, and returns its folder."""
    path.mkdir(parents=True)
    (path / "text.txt").write_text("\n\n".join(texts) + "\n")
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *vocabulary]) + "\n")
    settings = {"eval_share": 0.1, "sentences": "line"} | settings
    settings = pipeline.Settings(input=str(path / "text.txt"), tokenizer=str(path / "vocab.txt"), **settings)
    pipeline.prepare(settings, path / "corpus", workers=1, progress=False)
    return path / "corpus"


def recipe(corpus, **changes):
    """Returns the config of a run that learns `chains` in a few hundred steps, with changes by dotted key."""
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
    """Returns the findings of a run by name, and the report as text."""
    run = reading.read(str(workdir))
    results = report.diagnose(run, plan)
    json.dumps(report.as_json(results), allow_nan=False)
    return {finding.name: finding for finding in results}, report.format_report(run, results, plan)


@pytest.fixture(scope="session")
def chain_corpus(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("chains") / "made", chains(300))


def trained(config, path):
    """Pre-trains into `path`, and returns it."""
    pretraining.pretrain(config, path)
    return path


def serious(by_name):
    """Returns the names of the errors and warnings."""
    return {name for name, finding in by_name.items() if finding.severity in ("error", "warning")}


def rewrite(workdir, change, rows=None):
    """Rewrites metrics.jsonl with `rows(rows)`, each row changed."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    lines = [change(dict(row)) for row in (lines if rows is None else rows(lines))]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))


@pytest.fixture(scope="session")
def healthy(chain_corpus, programs, tmp_path_factory):
    """The workdir of a run that learns, with the times of an idle machine in its log."""
    with compiled_quickly(programs):
        workdir = trained(recipe(chain_corpus), tmp_path_factory.mktemp("healthy") / "run")
    idle = {"time/data": 0.001, "time/step": 1.0, "tokens_per_second": 1000.0}
    rewrite(workdir, lambda row: row | {key: value for key, value in idle.items() if key in row})
    return workdir


@pytest.fixture
def copy(healthy, tmp_path):
    """A copy of the healthy run, to be changed."""
    return shutil.copytree(healthy, tmp_path / "run")
