"""Mixtures of corpora: their shares, their order, and what cannot be mixed."""

import shutil

import numpy as np
import pytest

from bert_jax.data import batch_at, describe_batch
from bert_jax.data.corpus import Corpus
from bert_jax.errors import UserError
from tests.data.test_loader import same


def test_mixtures_keep_their_weights_and_each_corpus_its_own_order(config, other_corpus):
    alone = config.copy_and_resolve_references()
    config.data.corpus = f"{config.data.corpus},{other_corpus}"
    config.data.weights = (0.75, 0.25)
    names = [name for step in range(1024) for name in describe_batch(config, step)]
    from_other = np.array([str(other_corpus) + " " in name for name in names])
    assert from_other.mean() == 0.25
    assert 0.15 < from_other[:1000].mean() < 0.35
    # The first corpus gives its instances in the very order that it has alone.
    mixed = [name.split(": ")[1] for name, other in zip(names, from_other, strict=True) if not other]
    single = [name.split(": ")[1] for step in range(300) for name in describe_batch(alone, step)]
    assert mixed[: len(single)] == single
    whole = batch_at(config, 9)
    parts = [batch_at(config, 9, host, 4) for host in range(4)]
    same(whole, {name: np.concatenate([part[name] for part in parts]) for name in whole})


def test_temperature_evens_out_sizes(config, other_corpus):
    sizes = [Corpus.open(path).split("train").num_tokens for path in (config.data.corpus, other_corpus)]
    config.data.corpus = f"{config.data.corpus},{other_corpus}"

    def share(temperature):
        config.data.temperature = temperature
        names = [name for step in range(256) for name in describe_batch(config, step)]
        return np.mean([str(other_corpus) + " " in name for name in names])

    assert abs(share(1.0) - sizes[1] / sum(sizes)) < 0.001
    roots = np.sqrt(sizes)
    assert abs(share(2.0) - roots[1] / sum(roots)) < 0.001


def test_a_phase_may_read_the_first_corpora_alone(config, other_corpus):
    config.data.corpus = f"{config.data.corpus},{other_corpus}"
    config.train.num_steps = 512
    flat = {"share": 0.5, "temperature": 2.0}
    config.data.phases = ({"share": 0.5, "first_corpora": 1}, flat)

    def share(steps):
        return np.mean([str(other_corpus) + " " in name for step in steps for name in describe_batch(config, step)])

    assert share(range(256)) == 0
    mixed = share(range(256, 512))
    config.data.phases = ({"share": 0.5, "first_corpora": 1}, {**flat, "first_corpora": 9})
    assert share(range(256, 512)) == mixed > 0, "more than there are is all of them"
    config.data.phases = ({"share": 1.0, "first_corpora": 1, "weights": (0.0, 1.0)},)
    with pytest.raises(UserError, match="config.data.weights: found"):
        batch_at(config, 0)


def test_corpora_of_two_vocabularies_do_not_mix(config, tmp_path):
    other = shutil.copytree(config.data.corpus, tmp_path / "other")
    (other / "tokenizer" / "tokenizer.json").unlink()  # vocab.txt alone is read then
    vocabulary = (other / "tokenizer" / "vocab.txt").read_text().splitlines()
    vocabulary[10], vocabulary[11] = vocabulary[11], vocabulary[10]
    (other / "tokenizer" / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config.data.corpus = f"{config.data.corpus},{other}"
    with pytest.raises(UserError, match="its tokenizer is not that of"):
        batch_at(config, 0)
