"""Tests embedders whose lower layers are trained too: the loss, meshes and parts, and models that are cut there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bert_jax
from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.errors import UserError
from bert_jax.finetuning import run as finetuning
from bert_jax.finetuning.vector_losses import VectorLoss
from bert_jax.interop import formats, huggingface
from bert_jax.interop.pretrained import Pretrained
from bert_jax.runs.models import open_model
from tests.commands import finish, start
from tests.finetuning.test_embedding import data, folder, learner_of, make_config, make_pairs, step_of  # noqa: F401


@pytest.fixture(scope="module")
def deep(data, tmp_path_factory):  # noqa: F811
    """Returns the folder of pairs, and the path of a random model of three layers with a norm behind the last."""
    tokenizer = open_model(data[1]).tokenizer
    config = config_lib.base().model.to_dict() | {"vocab_size": tokenizer.vocab_size, "initializer_range": 0.1}
    config |= {"hidden_size": 32, "num_layers": 3, "num_heads": 2, "intermediate_size": 64, "max_positions": 32}
    model = model_lib.build(config, tokenizer.vocab_size)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    path = tmp_path_factory.mktemp("deep") / "model"
    huggingface.write(Pretrained("made", "bert", config, model, params, tokenizer), path)
    return data[0], path


def softmax(scores):
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def test_the_loss_is_the_mean_over_layers_and_their_divergence(deep):
    """The definition of sentence-transformers' AdaptiveLayerLoss with uniform weights, in float64."""
    weights = {"loss.prior_layers_weight": 0.5, "loss.layer_divergence": 2.0, "loss.similarity": "dot"}
    learner, batch, state = learner_of(deep, **{"loss.prior_layers": 2, "task.normalize": False}, **weights)
    own = {name: jnp.asarray(array[0]) for name, array in batch.items()}
    params = jax.tree.map(lambda leaf: leaf[0], state["params"])
    loss = VectorLoss(learner.model, learner.config.loss, "info_nce", normalize=False)
    numbers = jnp.arange(16, dtype=jnp.int32)
    vectors = jax.jit(loss.encode)(params, own, numbers, jax.random.key(3))
    assert vectors["anchors"].shape == (16, 96) and vectors["others"].shape == (16, 1, 96)
    total, _ = jax.jit(loss.loss)(params, vectors, own)
    layers = [{name: array[..., 32 * i : 32 * (i + 1)] for name, array in vectors.items()} for i in range(3)]
    losses = [float(loss._loss_of(params, layer, own)[0]) for layer in layers]
    texts = [np.concatenate([layer["anchors"], layer["others"][:, 0]]).astype(np.float64) for layer in layers]
    shares = [softmax(array / 0.3) for array in texts]
    divergences = [(shares[0] * (np.log(shares[0]) - np.log(share))).sum(-1).mean() for share in shares[1:]]
    expected = losses[0] + 0.5 * sum(losses[1:]) / 2 + 2.0 * 0.3 * sum(divergences)
    assert float(total) == pytest.approx(expected, rel=1e-5)


@pytest.mark.full
def test_parts_and_meshes_change_nothing(deep):
    switches = {"loss.prior_layers": 1, "loss.matryoshka": (32, 16), "task.pooling": "cls"}
    params, expected = step_of(*learner_of(deep, **switches))
    other, metrics = step_of(*learner_of(deep, (2, 2, 1), 4, **switches, **{"loss.gradcache_rows": 4}))
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=2e-6)
    np.testing.assert_allclose(metrics["grad_norm"], expected["grad_norm"], rtol=2e-6)
    for leaf, own in zip(jax.tree.leaves(other), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(leaf, own, atol=2e-4)  # Adam's first step divides by the gradient itself


def test_a_cut_embedder_pools_the_states_of_its_last_layer(deep):
    embedder, model = bert_jax.Embedder(deep[1], layers=2), open_model(deep[1])
    ids = model.tokenizer.encode(["kan mot"], special=True)[0]
    row = [model.tokenizer.cls_id, *ids, model.tokenizer.sep_id]
    batch = {"input_ids": [row], "attention_mask": [[1] * len(row)], "token_type_ids": [[0] * len(row)]}
    states = model.apply(jax.tree.map(jnp.asarray, {k: np.array(v, np.int32) for k, v in batch.items()}),
                         hidden_states=True)["hidden_states"]  # fmt: skip
    np.testing.assert_allclose(embedder.encode("kan mot"), states[2][0].mean(0), atol=1e-5)
    with pytest.raises(UserError, match="layers: found 9; expected from 1 to 3, the layers of"):
        bert_jax.Embedder(deep[1], layers=9)


@pytest.mark.full
def test_a_model_cut_below_its_last_layer(deep, tmp_path):
    """It embeds better where the layer has learned to, and is a directory that embeds the same."""
    scores = {}
    texts = [[record[name] for record in make_pairs(60, seed=1)] for name in ("anchor", "positive")]
    for name, changes in (("plain", {}), ("lower", {"loss.prior_layers": 1})):
        finetuning.finetune(make_config(deep, **changes), tmp_path / name)
        cut = bert_jax.Embedder(tmp_path / name, layers=1)
        assert cut.model.model.spec.num_layers == 1
        scores[name] = np.mean(cut.similarity(*texts).argmax(1) == np.arange(60))
    assert scores["lower"] > scores["plain"]
    finish(start("bert_jax.convert", f"--model={tmp_path / 'lower'}", "--layers=1", f"--output={tmp_path / 'out'}"))
    written = bert_jax.Embedder(tmp_path / "out")
    assert written.model.model.spec.num_layers == 1 and (tmp_path / "out" / "modules.json").exists()
    np.testing.assert_array_equal(written.encode("kan mot"), cut.encode("kan mot"))


@pytest.mark.full
def test_a_directory_of_sentence_transformers_is_cut(deep, tmp_path):
    """A linear map, pooling and prompts stay; the vectors of the first layers are those of the whole model's layer."""
    config = make_config(deep, **{"task.embedding_size": 8, "task.anchor_prompt": "kan ", "train.num_steps": 2})
    finetuning.finetune(config, tmp_path / "run")
    huggingface.write(open_model(tmp_path / "run"), tmp_path / "whole")
    huggingface.write(formats.first_layers(open_model(tmp_path / "whole"), 2, "layers"), tmp_path / "cut")
    embedders = bert_jax.Embedder(tmp_path / "cut"), bert_jax.Embedder(tmp_path / "run", layers=2)
    vectors = [embedder.encode("mot rit", prompt_name="query") for embedder in embedders]
    np.testing.assert_allclose(*vectors, atol=1e-6)
    assert vectors[0].shape == (8,)
