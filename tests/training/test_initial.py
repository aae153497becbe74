"""What config.init_from does to a run: parameters, architecture, vocabulary, and what is refused."""

import json
import shutil

import jax
import numpy as np
import pytest

from bert_jax.data import preparation
from bert_jax.errors import UserError
from bert_jax.training import adaptation, checkpoint, initial, loop, models
from tests.training.conftest import make_corpus

FIGURES = {"mlm_loss", "mlm_accuracy", "mlm_perplexity", "unigram_loss", "nsp_accuracy"}


def refused(config, path):
    with pytest.raises(UserError) as caught:
        loop.pretrain(config, path)
    message = str(caught.value)
    assert "\n" not in message
    assert not (path / "config.json").exists()
    return message


def test_the_same_parameters(config, finished, tmp_path, capfd):
    shutil.copytree(finished, tmp_path / "first")
    config.optimizer.learning_rate = 0.0
    config.seed = 1
    config.init_from = str(tmp_path / "first")
    loop.pretrain(config, tmp_path / "second")
    assert f"starts from {tmp_path / 'first'}\n" in capfd.readouterr().out
    first, second = (checkpoint.load(tmp_path / name)[0] for name in ("first", "second"))
    jax.tree.map(np.testing.assert_array_equal, first, second)

    shutil.rmtree(tmp_path / "first")  # a run that goes on no longer needs it
    config.train.num_steps = 13
    loop.pretrain(config, tmp_path / "second")
    assert checkpoint.steps_in(tmp_path / "second" / "checkpoints")[-1] == 13


def test_another_vocabulary(config, finished, tmp_path):
    other = make_corpus(tmp_path / "other")
    lines = (other / "tokenizer" / "vocab.txt").read_text().splitlines()
    lines[7], lines[8] = lines[8], lines[7]
    (other / "tokenizer" / "tokenizer.json").unlink()  # vocab.txt alone is read then
    (other / "tokenizer" / "vocab.txt").write_text("\n".join(lines) + "\n")
    config.init_from, config.data.corpus = str(finished), str(other)
    message = refused(config, tmp_path / "run")
    assert message == (
        f"config.init_from={finished}: its vocabulary is not that of {other}; prepare the corpus with "
        f"--tokenizer={finished}"
    )


def test_another_architecture(config, finished, tmp_path):
    config.init_from = str(finished)
    config.model.update(num_heads=4, intermediate_size=48)
    assert refused(config, tmp_path / "run") == (
        f"config.init_from={finished}: its model has intermediate_size=64, num_heads=2, but config.model has "
        "intermediate_size=48, num_heads=4; expected --config.model.intermediate_size=64 --config.model.num_heads=2, "
        "or --config.model_from_init=True, which takes them from there"
    )


def test_nothing_to_take_the_architecture_from(config, tmp_path):
    config.model_from_init = True
    assert refused(config, tmp_path / "run").startswith("config.model_from_init: True, but config.init_from is empty")
