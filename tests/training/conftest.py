"""Provides the training tests with a tiny corpus and recipe, and a really small disk."""

import contextlib
import json
import random
import subprocess

import jax
import pytest

from bert_jax import config as config_lib
from bert_jax.data.preparation import pipeline
from tests.compiled_programs import programs_in

WORDS = [consonant + vowel + end for consonant in "klmrt" for vowel in "aio" for end in "nst"]


def make_corpus(path, seed=0, documents=120, eval_share=0.1, vocabulary=WORDS):
    """A corpus of made-up text in `path`; the directory."""
    random_text = random.Random(seed)

    def sentence():
        words = random_text.choices(WORDS, weights=range(1, len(WORDS) + 1), k=random_text.randint(4, 12))
        return " ".join(words) + " ."

    texts = ["\n".join(sentence() for _ in range(random_text.randint(4, 12))) for _ in range(documents)]
    path.mkdir(parents=True)
    (path / "text.txt").write_text("\n\n".join(texts) + "\n")
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *vocabulary]) + "\n")
    settings = pipeline.Settings(
        input=str(path / "text.txt"), tokenizer=str(path / "vocab.txt"), sentences="line", eval_share=eval_share
    )
    pipeline.prepare(settings, path / "corpus", workers=1, progress=False)
    return path / "corpus"


@contextlib.contextmanager
def compiled_quickly(programs):
    """Programs compiled once for all tests, and quickly: most of these runs differ in what surrounds the step."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    with programs_in(programs):
        yield programs
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module", autouse=True)
def compiled(programs):
    with compiled_quickly(programs):
        yield programs


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("text") / "made")


def make_config(corpus):
    """A run of seconds, everything on. A constant rate, so that runs of any length are one program."""
    config = config_lib.base()
    config.model.update(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, max_positions=32)
    config.model.update(hidden_dropout=0.0, attention_dropout=0.0)
    config.data.update(corpus=str(corpus), sequence_length=32, batch_size=8)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=4, schedule="constant")
    config.train.update(num_steps=12, log_every=1, eval_every=4, eval_batches=2, checkpoint_every=4)
    return config


def write_recipe(path, config, module="config"):
    """A recipe file of a config, for a process of its own; `module` is that of the config's base(). Its path."""
    path.write_text(
        f"import json\nfrom bert_jax.{module} import base\n\n\n"
        "def get_config():\n    config = base()\n"
        f"    config.update(json.loads({json.dumps(config.to_dict())!r}))\n    return config\n"
    )
    return path


@pytest.fixture
def config(corpus):
    return make_config(corpus)


@pytest.fixture(scope="session")
def finished(corpus, programs, tmp_path_factory):
    """The workdir of a finished run of `config`; to be copied, not to be trained in."""
    from bert_jax.training import pretraining

    workdir = tmp_path_factory.mktemp("finished") / "run"
    with compiled_quickly(programs):  # pytest makes what is the session's before what is a module's, `compiled`
        pretraining.pretrain(make_config(corpus), workdir)
    return workdir


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB, really mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"this machine: cannot mount a small file system: {error}")
    if done.returncode:
        pytest.skip(f"this machine: cannot mount a small file system: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
