"""Tests that fine-tuning starts from a checkpoint's encoder: every parameter, and so the hidden states."""

import json
import random

import jax
import numpy as np
import pytest

from bert_jax.config import finetuning as finetune_config
from bert_jax.finetuning import run as finetuning
from bert_jax.inference.classify import Classifier
from bert_jax.inference.embed import Embedder
from bert_jax.runs.models import open_model
from bert_jax.sharding import path_name
from bert_jax.training import pretraining
from tests.training.conftest import WORDS, compiled_quickly, corpus, make_config  # noqa: F401


@pytest.fixture(scope="module", autouse=True)
def compiled(programs):
    with compiled_quickly(programs):
        yield programs


@pytest.fixture(scope="module", params=["learned", pytest.param("rotary", marks=pytest.mark.full)])
def pretrained(request, corpus, compiled, tmp_path_factory):  # noqa: F811
    """Returns the workdir of a pre-training run of a few steps."""
    config = make_config(corpus)
    config.model.positions = request.param
    config.train.update(num_steps=6, checkpoint_every=6, eval_every=6, tensorboard=False)
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    pretraining.pretrain(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def texts():
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 20))) for _ in range(24)]


@pytest.fixture(scope="module")
def started(pretrained, texts, tmp_path_factory):
    """Returns the workdir of one epoch of fine-tuning at a rate of zero, which holds the parameters it began with."""
    workdir = tmp_path_factory.mktemp("started") / "run"
    path = workdir.parent / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{i % 2}\n" for i, text in enumerate(texts)))
    config = finetune_config.base()
    config.update(init_from=str(pretrained), seeds=2)
    config.task.update(train=str(path), held_out=str(path), pooling="mean")
    config.data.update(sequence_length=32, batch_size=8)
    config.optimizer.update(learning_rate=0.0, learning_rate_range=(0.0, 1.0))
    config.train.update(num_epochs=1.0, tensorboard=False, progress=False)
    finetuning.finetune(config, workdir)
    return workdir


def leaves(params):
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


@pytest.mark.more
def test_every_encoder_parameter_is_the_checkpoints(pretrained, started):
    source = leaves(open_model(pretrained).params)
    for seed in (0, 1):
        params = leaves(open_model(started, seed=seed).params)
        encoder = [name for name in params if name.startswith("encoder/")]
        assert sorted(encoder) == sorted(name for name in source if name.startswith("encoder/"))
        for name in encoder:
            np.testing.assert_array_equal(params[name], source[name], err_msg=name)
    assert {name.split("/")[0] for name in params} == {"encoder", "task"}


def test_only_the_head_differs_between_seeds(started):
    first, second = (leaves(open_model(started, seed=seed).params) for seed in (0, 1))
    different = {name for name in first if not np.array_equal(first[name], second[name])}
    assert different == {"task/output/kernel"}


def test_the_vectors_are_those_of_the_checkpoint(pretrained, started, texts):
    vectors = [Embedder(open_model(name), pooling="mean").encode(texts) for name in (pretrained, started)]
    np.testing.assert_allclose(*vectors, rtol=0, atol=1e-6)


def test_scores_follow_from_the_checkpoints_vectors_and_the_fresh_head(pretrained, started, texts):
    model = open_model(started)
    output = model.params["task"]["output"]
    logits = Embedder(open_model(pretrained), pooling="mean").encode(texts) @ np.asarray(output["kernel"])
    expected = np.asarray(jax.nn.softmax(logits + np.asarray(output["bias"]), axis=-1))
    by_classifier = [[row["scores"][label] for label in model.labels] for row in Classifier(model)(texts)]
    np.testing.assert_allclose(by_classifier, expected, rtol=0, atol=1e-5)
    # What the training run itself computed, in its own batches.
    lines = map(json.loads, (started / "predictions" / "held_out.jsonl").read_text().splitlines())
    written = [[row["scores"][label] for label in model.labels] for row in lines]
    np.testing.assert_allclose(written, expected, rtol=0, atol=1e-5)


@pytest.mark.more
def test_from_scratch_takes_nothing_but_the_architecture(pretrained, started, texts, tmp_path):
    run = json.loads((started / "run.json").read_text())
    config = finetune_config.base()
    path = started.parent / "train.tsv"
    config.update(init_from=str(pretrained), from_scratch=True)
    config.task.update(train=str(path), held_out=str(path), pooling="mean")
    config.data.update(sequence_length=32, batch_size=8)
    config.optimizer.update(learning_rate=0.0, learning_rate_range=(0.0, 1.0))
    config.train.update(num_epochs=1.0, tensorboard=False, progress=False)
    finetuning.finetune(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == run["model"]
    source, fresh = leaves(open_model(pretrained).params), leaves(open_model(tmp_path / "run").params)
    kernels = [name for name in fresh if name.startswith("encoder/") and name.endswith(("kernel", "embedding"))]
    assert not any(np.array_equal(fresh[name], source[name]) for name in kernels)
    scale = open_model(pretrained).model.spec.initializer_range
    for name in kernels:
        assert np.std(fresh[name]) == pytest.approx(scale, rel=0.3), name
