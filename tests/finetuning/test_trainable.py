"""Tests the choice of trained parameters, the rates of layers, and the losses of tasks against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.config import finetuning as finetune_config
from bert_jax.errors import UserError
from bert_jax.finetuning import losses, trainable
from bert_jax.model import parameters
from bert_jax.sharding import path_name
from bert_jax.training import optimizer as optimizer_lib


def make_model(layers=3, switches=None, **task):
    config = config_lib.base().model.to_dict() | (switches or {})
    config |= {"hidden_size": 8, "num_layers": layers, "num_heads": 2, "intermediate_size": 16, "max_positions": 8}
    head = model_lib.Task(**({"name": "sequence_classification", "num_labels": 3} | task))
    return model_lib.build(config, 20, next_sentence=False, language_model=False, task=head)


def filled(model, make=np.zeros):
    """Returns the parameters of a model, each array made by `make` from its shape."""
    return jax.tree.map(lambda leaf: make(leaf.shape), jax.eval_shape(model.init, jax.random.key(0)))


def settings(**changes):
    config = finetune_config.base().tuning
    config.update(changes)
    return config


def test_rates_fall_from_the_heads_down_as_in_electra():
    """decay ** (n + 2 - depth), as `_get_layer_lrs` has it: depth 0 of embeddings, 1 to n of layers, n + 2 of heads."""
    layers, depths = 12, {"encoder/embeddings/word/embedding": 0, "encoder/embeddings/projection/kernel": 0}
    depths |= {f"encoder/layers/{i}/mlp/up/kernel": i + 1 for i in range(layers)}
    depths |= {"pooler/dense/kernel": layers + 2, "task/output/bias": layers + 2}
    share = trainable.rate_multiplier(0.8, make_model(layers).spec, finetune_config.base().optimizer.layer_decay_offset)
    assert {name: share(name) for name in depths} == pytest.approx(
        {name: 0.8 ** (layers + 2 - depth) for name, depth in depths.items()}
    )
    assert share("encoder/norm/scale") == share("encoder/layers/11/mlp/up/kernel") == pytest.approx(0.64)


def test_rates_fall_from_the_top_layer_down():
    share = trainable.rate_multiplier(0.5, make_model().spec, 0)
    shares = {
        "encoder/embeddings/word/embedding": 0.125,
        "encoder/layers/0/mlp/up/kernel": 0.25,
        "encoder/layers/1/attention/query/lora_a": 0.5,
        "encoder/layers/2/mlp_norm/scale": 1.0,
        "pooler/dense/kernel": 1.0,
        "task/output/bias": 1.0,
    }
    assert {name: share(name) for name in shares} == shares
    assert trainable.rate_multiplier(1.0, make_model().spec) is None
    params = {"encoder": {"layers": {str(i): {"mlp": {"up": {"kernel": jnp.ones((2, 2))}}} for i in range(3)}}}
    config = config_lib.base().optimizer
    config.update(learning_rate=1.0, schedule="constant", warmup_steps=0, clip_norm=0.0, weight_decay=0.5)
    optimizer = optimizer_lib.make_optimizer(config, 10, share)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    moved = [float(updates["encoder"]["layers"][str(i)]["mlp"]["up"]["kernel"][0, 0]) for i in range(3)]
    np.testing.assert_allclose(moved, [-0.25 * 1.5, -0.5 * 1.5, -1.5], rtol=1e-5)  # decay too


@pytest.mark.parametrize(
    ("tuned", "passes"),
    [
        ({}, 3.0),
        ({"freeze": "encoder"}, 1.0),
        ({"freeze": "embeddings"}, 3.0),
        ({"freeze": "layers:1"}, 1 + 2 * 2 / 3),
        ({"freeze": r"layers/\d/(attention|mlp)/"}, 2.0),  # norms of every layer are trained
        ({"lora_rank": 2}, 2.0),
    ],
)
def test_passes_of_a_step(tuned, passes):
    config = settings(**tuned)
    params = jax.eval_shape(make_model().init, jax.random.key(0))
    names = trainable.frozen_names(params, config)
    adapters = jax.eval_shape(
        lambda: trainable.init_adapters(config, trainable.split_params(params, names)[1], jax.random.key(0))
    )
    assert trainable.forward_passes(parameters.merge_trees(params, adapters), names) == pytest.approx(passes)


@pytest.mark.parametrize("tuned", [{"freeze": "layers:4"}, {"reinit_layers": 4}])
def test_more_layers_than_there_are(tuned):
    with pytest.raises(UserError, match="config.tuning.*; the model has 3"):
        trainable.check_tuning(settings(**tuned), make_model().spec)


def test_layers_that_share_parameters_learn_as_the_last_of_them():
    share = trainable.rate_multiplier(0.5, make_model(4, {"layer_groups": 2}).spec, 0)
    assert [share(f"encoder/layers/{i}/mlp/up/kernel") for i in range(2)] == [0.25, 1.0]


@pytest.mark.parametrize(
    ("switches", "tuned", "message"),
    [
        ({"layer_groups": 1}, {"freeze": "layers:1"}, "freeze: found layers:1, .*share the parameters of 1 groups"),
        ({"layer_groups": 1}, {"reinit_layers": 1}, "reinit_layers: found 1, .*share"),
        ({}, {"lora_rank": 2, "lora_targets": ("gate",)}, "lora_targets: found gate, .*mlp=dense"),
    ],
)
def test_layers_and_maps_that_a_model_has_not_of_its_own(switches, tuned, message):
    with pytest.raises(UserError, match=f"config.tuning.{message}"):
        trainable.check_tuning(settings(**tuned), make_model(switches=switches).spec)


def test_adapters_of_maps_without_bias():
    model = make_model(switches={"mlp": "gated", "mlp_bias": False, "norm_place": "pre"})
    config, params = settings(lora_rank=2, lora_targets=("gate", "query")), filled(model, np.ones)
    frozen = trainable.split_params(params, trainable.frozen_names(params, config))[1]
    adapters = trainable.init_adapters(config, frozen, jax.random.key(0))
    assert set(adapters["encoder"]["layers"]["0"]["mlp"]) == {"gate"}
    whole = parameters.merge_adapters(parameters.merge_trees(adapters, params), config)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    np.testing.assert_array_equal(whole["encoder"]["layers"]["1"]["mlp"]["gate"]["kernel"], np.ones((8, 16)))


def test_targets_of_adapters_as_a_flag_gives_them():
    frozen = filled(make_model(layers=1))
    names = {
        targets: [
            path_name(path)
            for path, _ in jax.tree_util.tree_leaves_with_path(
                trainable.init_adapters(settings(lora_rank=2, lora_targets=targets), frozen, jax.random.key(0))
            )
        ]
        for targets in (("query", "down"), ("query,down",))
    }
    assert names["query", "down"] == names["query,down",] and len(names["query,down",]) == 4


def test_what_starts_fresh():
    model, config = make_model(), settings(reinit_layers=2)
    source = filled(make_model(num_labels=2), lambda shape: np.full(shape, 7.0, np.float32))
    taken, draw, fresh, left = parameters.fit_parameters(
        model, source, trainable.reinitialised_pattern(config, model.spec)
    )
    assert {"/".join(name.split("/")[:3]) for name in fresh} == {
        "encoder/layers/1", "encoder/layers/2", "pooler/dense/bias", "pooler/dense/kernel", "task/output/bias",
        "task/output/kernel",
    }  # fmt: skip
    assert not left and set(taken["encoder"]["layers"]) == {"0"}
    drawn = draw(jax.random.key(2))
    assert jax.tree.structure(parameters.merge_trees(taken, drawn)) == jax.tree.structure(filled(model))
    assert all((leaf == 7.0).all() for leaf in jax.tree.leaves(taken))
    assert not any((leaf == 7.0).any() for leaf in jax.tree.leaves(drawn))
    assert drawn["task"]["output"]["kernel"].std() > 0.01


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ROWS, LENGTH = 4, 6
WEIGHTS = np.array([1, 1, 0, 1], np.float32)
RANDOM = np.random.default_rng(0)
CLASSES = RANDOM.integers(0, 3, ROWS).astype(np.int32)
SEVERAL = RANDOM.integers(0, 2, (ROWS, 3)).astype(np.float32)
NUMBERS = RANDOM.standard_normal(ROWS).astype(np.float32)
TAGS = np.where(RANDOM.random((ROWS, LENGTH)) < 0.4, RANDOM.integers(0, 3, (ROWS, LENGTH)), -100).astype(np.int32)
ENDS = RANDOM.integers(0, LENGTH, (2, ROWS)).astype(np.int32)


def single(logits):
    return -np.log(softmax(logits)[np.arange(ROWS), CLASSES])[WEIGHTS > 0].mean()


def several(logits):
    p = 1 / (1 + np.exp(-logits))
    return -(SEVERAL * np.log(p) + (1 - SEVERAL) * np.log(1 - p))[WEIGHTS > 0].mean()


def numbers(logits):
    return ((logits[:, 0] - NUMBERS) ** 2)[WEIGHTS > 0].mean()


def tokens(logits):
    counted = (TAGS >= 0) & (WEIGHTS > 0)[:, None]
    return -np.log(softmax(logits)[counted, TAGS[counted]]).mean()


def spans(logits):
    means = [-np.log(softmax(logits[:, :, i])[np.arange(ROWS), ENDS[i]])[WEIGHTS > 0].mean() for i in (0, 1)]
    return np.mean(means)


@pytest.mark.parametrize(
    ("task", "problem", "labels", "expected"),
    [
        ({}, "single_label", {"labels": CLASSES}, single),
        ({}, "multi_label", {"labels": SEVERAL}, several),
        ({"num_labels": 1}, "regression", {"labels": NUMBERS}, numbers),
        ({"name": "token_classification"}, "", {"labels": TAGS}, tokens),
        ({"name": "question_answering", "num_labels": 2}, "", {"start_positions": ENDS[0], "end_positions": ENDS[1]},
         spans),
    ],
)  # fmt: skip
def test_losses_against_their_definitions(task, problem, labels, expected):
    """Losses of parts of the batch add up: they are sums divided by the whole batch's count."""
    model = make_model(layers=1, **task)
    batch = {
        "input_ids": RANDOM.integers(0, 20, (ROWS, LENGTH)).astype(np.int32),
        "attention_mask": np.ones((ROWS, LENGTH), np.int32),
        "token_type_ids": np.zeros((ROWS, LENGTH), np.int32),
        "weights": WEIGHTS,
    } | labels
    params = filled(model, lambda shape: RANDOM.standard_normal(shape).astype(np.float32))
    halves = [{name: array[half] for name, array in batch.items()} for half in (slice(0, 2), slice(2, 4))]

    @jax.jit
    def computed():
        sums = [losses.loss_sum(model, params, rows, problem) for rows in (batch, *halves)]
        return sums, losses.loss_denominator(batch, model, problem), model.apply(params, batch)["logits"]

    (total, *parts), count, logits = computed()
    np.testing.assert_allclose(total / count, expected(np.asarray(logits, np.float64)), rtol=1e-4)
    np.testing.assert_allclose(sum(parts), total, rtol=1e-5)


def test_a_crf_is_scored_by_its_labels():
    model = make_model(layers=1, name="token_classification", crf=True)
    batch = {
        "input_ids": np.ones((ROWS, LENGTH), np.int32),
        "attention_mask": np.ones((ROWS, LENGTH), np.int32),
        "token_type_ids": np.zeros((ROWS, LENGTH), np.int32),
        "weights": WEIGHTS,
        "labels": TAGS,
        "first_subwords": (TAGS >= 0).astype(np.int32),
    }
    params = filled(model, lambda shape: np.full(shape, 0.1, np.float32))
    params["task"]["transitions"] = jnp.array([[-9.0, 9, -9], [-9, -9, 9], [9, -9, -9]])  # each label after the last
    (labels, finite), loss = jax.jit(
        lambda: (losses.task_outputs(model, params, batch), losses.loss_sum(model, params, batch, ""))
    )()
    assert finite and labels.dtype == np.int32
    for row, chosen in enumerate(np.asarray(labels)):
        chain = chosen[TAGS[row] >= 0]
        assert ((chain[1:] - chain[:-1]) % 3 == 1).all() and not chosen[TAGS[row] < 0].any()
    assert loss > 0 and losses.loss_denominator(batch, model, "") == ((TAGS >= 0) & (WEIGHTS > 0)[:, None]).sum()
