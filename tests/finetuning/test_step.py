"""Tests several seeds in one step: each has the numbers that it has alone; frozen, stopped and bad ones stay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.config import finetuning as finetune_config
from bert_jax.errors import UserError
from bert_jax.finetuning import losses
from bert_jax.finetuning.state import StateLayout, all_finite
from bert_jax.finetuning.step import Learner
from bert_jax.model import parameters

VOCAB, ROWS, LENGTH, LABELS = 40, 8, 10, 3
SEEDS = (1, 3, 4, 6)
SIZES = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_positions": 16}


def make_model(rate=0.1, **task):
    config = config_lib.base().model.to_dict() | SIZES
    config |= {"hidden_dropout": rate, "attention_dropout": rate}
    head = model_lib.Task(**({"name": "sequence_classification", "num_labels": LABELS} | task))
    return model_lib.build(config, VOCAB, next_sentence=False, language_model=False, task=head)


@functools.cache
def source():
    """Returns the parameters of a pre-trained model, which has other heads."""
    config = config_lib.base().model.to_dict() | SIZES
    return jax.device_get(jax.jit(model_lib.build(config, VOCAB).init)(jax.random.key(9)))


def make_batch(seed, step, length=LENGTH):
    random = np.random.default_rng((seed, step))
    lengths = random.integers(4, LENGTH + 1, (ROWS, 1))
    ids = np.zeros((ROWS, length), np.int32)
    ids[:, :LENGTH] = random.integers(0, VOCAB, (ROWS, LENGTH))
    return {
        "input_ids": ids,
        "attention_mask": (np.arange(length) < lengths).astype(np.int32),
        "token_type_ids": np.zeros((ROWS, length), np.int32),
        "labels": random.integers(0, LABELS, ROWS).astype(np.int32),
        "weights": (np.arange(ROWS) < 8 - step % 3).astype(np.float32),
    }


def stacked(seeds, step, length=LENGTH):
    batches = [make_batch(seed, step, length) for seed in seeds]
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


def make_learner(seeds, mesh_sizes=(1, 1, 1), model=None, at_once=0, microbatches=1, **tuned):
    config = finetune_config.base()
    config.seeds_at_once, config.train.microbatches = at_once, microbatches
    config.optimizer.update(learning_rate=1e-2, warmup_share=0.0)
    config.tuning.update(tuned)
    sizes = dict(zip(sharding.AXES, mesh_sizes, strict=True))
    mesh = sharding.make_mesh(sizes, jax.devices()[: np.prod(mesh_sizes)])
    return Learner(config, model or make_model(), "single_label", seeds, mesh, 10)


def run(learner, steps=2, length=LENGTH, batch_of=stacked):
    """Returns the state and the losses [steps, seeds], on the host."""
    state, _, _ = learner.layout.init(source())
    step, keys, values = learner.train_step, learner.dropout_keys(), []
    for index in range(steps):
        state, metrics = step(state, batch_of(learner.seeds, index, length), np.int32(index), keys)
        values.append(metrics["loss"])
    return jax.device_get((state, jnp.stack(values)))


@functools.cache
def together():
    return run(make_learner(SEEDS))


def of_seed(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_close(one, other, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), one, other)


@pytest.mark.more
def test_a_seed_alone_and_beside_others():
    """Fresh head, dropout and steps are the same, also where another seed's batch needs more padding."""
    state, expected = together()
    alone, its_losses = run(make_learner((3,)), length=16)
    np.testing.assert_allclose(its_losses[:, 0], expected[:, 1], rtol=1e-5)
    assert_close(of_seed(alone["params"], 0), of_seed(state["params"], 1))
    assert abs(expected - expected[:, :1])[:, 1:].min() > 1e-4  # they do differ


@pytest.mark.full
@pytest.mark.parametrize("changes", [{"at_once": 2}, {"mesh_sizes": (8, 1, 1)}])
def test_groups_and_meshes_change_nothing(changes):
    state, values = run(make_learner(SEEDS, **changes))
    np.testing.assert_allclose(values, together()[1], rtol=1e-5)
    assert_close(state["params"], together()[0]["params"], 1e-4)


@pytest.mark.more
def test_microbatches_are_sums_over_what_the_batch_counts():
    model = make_model(0.0, dropout=0.0)
    learner = make_learner((3,), model=model, microbatches=4)
    start = jax.device_get(learner.layout.init(source())[0]["params"])

    def loss(params):
        batch = make_batch(3, 1)  # a row of it does not count, so that means of parts would differ
        return losses.loss_sum(model, params, batch, "single_label") / batch["weights"].sum()

    expected, gradient = jax.jit(jax.value_and_grad(loss))(of_seed(start, 0))
    batch = {name: array[None] for name, array in make_batch(3, 1).items()}
    state = learner.layout.init(source())[0]
    _, metrics = learner.train_step(state, batch, np.int32(0), learner.dropout_keys())
    np.testing.assert_allclose(metrics["loss"][0], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"][0], optax.tree.norm(gradient), rtol=1e-4)


def test_a_bad_seed_and_a_stopped_one_stay_as_they_are_and_touch_no_other():
    learner = make_learner(SEEDS)
    step, keys = learner.train_step, learner.dropout_keys()
    begun, _, _ = learner.layout.init(source())
    before = jax.device_get(begun["params"])
    begun |= learner.layout.flags(np.full(4, -1), np.array([True, True, False, True]))
    batch = stacked(SEEDS, 0)
    batch["weights"][0] = np.nan
    state, metrics = jax.device_get(step(begun, batch, np.int32(0), keys))
    assert state["bad_step"].tolist() == [0, -1, -1, -1] and np.isnan(metrics["loss"]).tolist() == [True] + 3 * [False]
    whole = run(learner, steps=1)[0]
    for index, expected in enumerate((before, whole["params"], before, whole["params"])):
        jax.tree.map(np.testing.assert_array_equal, of_seed(state["params"], index), of_seed(expected, index))
    counts = [leaf for leaf in jax.tree.leaves(state["opt_state"]) if leaf.dtype == np.int32]
    assert all(count.tolist() == [0, 1, 0, 1] for count in counts)


def test_best_parameters_and_what_checkpoints_hold():
    learner = make_learner((1, 3), lora_rank=2)
    state, fresh, left = learner.layout.init(source())
    assert {name.split("/")[0] for name in fresh} == {"task"}
    assert {name.split("/")[0] for name in left} == {"mlm", "next_sentence"}
    moved = jax.tree.map(lambda leaf: leaf + 1, state["params"])
    state["best"] = learner.keep_best(state["best"], moved, np.array([False, True]))
    items = learner.layout.to_items(state)
    assert set(items) == {"params", "opt_state", "frozen", "best-0", "best-1"}
    jax.tree.map(np.testing.assert_array_equal, items["best-1"], of_seed(moved, 1))
    jax.tree.map(np.testing.assert_array_equal, items["best-0"], of_seed(state["params"], 0))
    template = learner.layout.abstract_items()
    assert jax.tree.structure(template) == jax.tree.structure(items)
    jax.tree.map(lambda a, b: None if (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding) else 1 / 0,
                 template, items)  # fmt: skip
    again = learner.layout.from_items(items, np.array([-1, 5]), np.array([True, False]))
    assert jax.tree.structure(again) == jax.tree.structure(state) and again["bad_step"].tolist() == [-1, 5]
    jax.tree.map(np.testing.assert_array_equal, again["best"], state["best"])
    assert all_finite(state["params"]).tolist() == [True, True]
    assert all_finite(jax.tree.map(lambda leaf: leaf.at[1].set(np.nan), state["params"])).tolist() == [True, False]


def test_adapters_alone_are_trained_and_merged():
    learner = make_learner((1, 3), lora_rank=2, lora_targets=("query", "down"))
    start = jax.device_get(learner.layout.init(source())[0])
    state, values = run(learner)
    encoder = source()["encoder"]
    assert np.isfinite(values).all()
    jax.tree.map(np.testing.assert_array_equal, state["frozen"], {"encoder": encoder})
    plain = jax.eval_shape(learner.model.init, jax.random.key(0))

    def effective(state):
        merged = parameters.merge_adapters(
            parameters.merge_trees(of_seed(state["params"], 1), state["frozen"]), learner.config.tuning
        )
        assert jax.tree.structure(merged) == jax.tree.structure(plain)
        return merged["encoder"]

    jax.tree.map(np.testing.assert_array_equal, effective(start), encoder)  # they begin by doing nothing
    adapters = state["params"]["encoder"]["layers"]["0"]
    assert set(adapters) == {"attention", "mlp"} and set(adapters["mlp"]) == {"down"}
    a, b = (adapters["mlp"]["down"][name][1] for name in ("lora_a", "lora_b"))
    assert a.shape == (32, 2) and b.shape == (2, 16) and abs(b).max() > 0
    kernel = encoder["layers"]["0"]["mlp"]["down"]["kernel"]
    np.testing.assert_allclose(effective(state)["layers"]["0"]["mlp"]["down"]["kernel"], kernel + 8 * a @ b, atol=1e-6)
    assert len(jax.tree.leaves(state["opt_state"])) == 2 * len(jax.tree.leaves(state["params"])) + 2  # two counts


def test_frozen_layers_stay_and_take_no_moments():
    learner = make_learner((3,), freeze="embeddings", reinit_layers=1)
    state, _ = run(learner, steps=1)
    jax.tree.map(
        np.testing.assert_array_equal, state["frozen"], {"encoder": {"embeddings": source()["encoder"]["embeddings"]}}
    )
    assert set(state["params"]) == {"encoder", "pooler", "task"} and set(state["params"]["encoder"]) == {"layers"}
    assert len(jax.tree.leaves(state["opt_state"])) == 2 * len(jax.tree.leaves(state["params"])) + 2


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ({"freeze": "encodr/"}, "config.tuning.freeze: 'encodr/' matches no parameter; they are encoder/"),
        ({"freeze": "."}, "config.tuning.freeze: '.' leaves nothing to train"),
        ({"freeze": "^task/"}, "config.tuning: would keep task/output/bias as it is"),
        ({"freeze": "layers:1", "reinit_layers": 1}, "config.tuning: would keep encoder/layers/0/"),
    ],
)
def test_what_cannot_be_frozen(tuned, message):
    with pytest.raises(UserError, match="^" + message.replace("'.'", r"'\.'")):
        make_learner((3,), **tuned).layout.init(source())


def test_methods_that_moved_to_the_layout_keep_their_old_names():
    learner = object.__new__(Learner)
    learner.__dict__["layout"] = layout = object.__new__(StateLayout)
    assert (learner.init_state, learner.marks) == (layout.init, layout.flags)
    for name in ("to_items", "from_items", "abstract_items", "parts", "place"):
        assert getattr(learner, name) == getattr(layout, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        learner.nothing  # noqa: B018
