"""Tests embedders that learn to rebuild texts from their vectors: whole runs, meshes and parts, and refusals."""

import jax
import numpy as np
import pytest

import bert_jax
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.interop import formats, huggingface
from bert_jax.runs.models import open_model
from tests.commands import logged_rows
from tests.finetuning.test_embedding import (  # noqa: F401
    data,
    folder,
    learner_of,
    make_config,
    make_pairs,
    step_of,
    write,
)

SWITCHES = {"loss.name": "denoising", "task.positive": "", "task.pooling": "cls"}


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Returns a held-out set of graded pairs, as config.task.held_out names it."""
    rows = [{"text1": record["anchor"], "text2": record["positive"], "score": i % 5}
            for i, record in enumerate(make_pairs(20, seed=2))]  # fmt: skip
    return f"sts:{write(tmp_path_factory.mktemp('graded') / 'graded.jsonl', rows)}"


@pytest.mark.full
def test_a_run(data, graded, tmp_path):  # noqa: F811
    config = make_config(data, **SWITCHES, **{"task.held_out": graded, "train.num_epochs": 2.0})
    finetuning.finetune(config, tmp_path / "run")
    rows = [row for row in logged_rows(tmp_path / "run") if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2 and rows[-1]["token_accuracy"] > rows[0]["token_accuracy"]
    opened = open_model(tmp_path / "run")
    assert "task" not in opened.params  # the decoder is not kept
    embedder = bert_jax.Embedder(tmp_path / "run")
    assert embedder.encode("kan mot").shape == (32,)
    huggingface.write(opened, tmp_path / "out")
    again = bert_jax.Embedder(tmp_path / "out")
    np.testing.assert_array_equal(again.encode("kan mot"), embedder.encode("kan mot"))


@pytest.mark.full
def test_parts_and_meshes_change_nothing(data, graded):  # noqa: F811
    changes = SWITCHES | {"task.held_out": graded}
    params, expected = step_of(*learner_of(data, **changes))
    for sizes, count, rows in (((1, 1, 1), 1, 2), ((8, 1, 1), 8, 0), ((2, 2, 1), 4, 4)):
        other, metrics = step_of(*learner_of(data, sizes, count, **changes, **{"loss.gradcache_rows": rows}))
        for name in ("loss", "grad_norm", "token_accuracy"):
            np.testing.assert_allclose(metrics[name], expected[name], rtol=2e-6, err_msg=f"{sizes} {rows} {name}")
        for leaf, own in zip(jax.tree.leaves(other), jax.tree.leaves(params), strict=True):
            np.testing.assert_allclose(leaf, own, atol=2e-4)  # Adam's first step divides by the gradient itself


def test_mistakes(data, graded, tmp_path):  # noqa: F811
    huggingface.write(formats.encoder_only(open_model(data[1])), tmp_path / "bare")
    for changes, message in (
        (
            {"task.positive": "positive"},
            "config.task.positive: found 'positive'; expected '' with config.loss",
        ),
        ({"task.anchor_prompt": "kan "}, "config.task.anchor_prompt: found 'kan '; expected '' with"),
        ({"task.held_out": ""}, "config.task.held_out: without config.task.positive nothing can be held out"),
        (
            {"loss.matryoshka": (8,)},
            r"config.loss.matryoshka: found \(8,\); expected \(\) with config.loss.na",
        ),
        ({"loss.prior_layers": 1}, "config.loss.prior_layers: found 1; expected 0 with config.loss.name=denoising"),
        (
            {"init_from": str(tmp_path / "bare")},
            "has no masked-language-model head; expected a model with",
        ),
    ):
        with pytest.raises(UserError, match=message):
            finetuning.finetune(make_config(data, **SWITCHES | {"task.held_out": graded} | changes), tmp_path / "run")
