"""Promise P4: losses and gradients of one device, on every mesh of eight."""

import functools

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.training import step as step_lib

ALONE = [(8, 1, 1), (1, 8, 1)]  # data, fsdp, tensor: one axis of each mesh splits anything
MESHES = [*(pytest.param(sizes, marks=pytest.mark.full) for sizes in ALONE), (1, 4, 2), (2, 2, 2)]
STEPS = 20
PARTS = [(sizes, parts) for sizes in ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 4, 1), (1, 4, 2)) for parts in (1, 2, 4)]


def make_config(dropout=0.0, microbatches=1, optimizer_state="whole", optimizer="adamw"):
    config = config_lib.base()
    config.model.update(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=18)
    config.model.update(hidden_dropout=dropout, attention_dropout=dropout, dtype="float32")
    config.optimizer.update(learning_rate=1e-3, warmup_steps=2, name=optimizer)
    config.mesh.optimizer_state = optimizer_state
    config.train.update(num_steps=STEPS, microbatches=microbatches)
    return config


def make_batch(rng, vocab_size, rows=16, sequence=16, slots=3):
    lengths = rng.integers(8, sequence + 1, (rows, 1))
    return {
        "input_ids": rng.integers(0, vocab_size, (rows, sequence), np.int32),
        "attention_mask": (np.arange(sequence) < lengths).astype(np.int32),
        "token_type_ids": rng.integers(0, 2, (rows, sequence), np.int32),
        "masked_positions": rng.integers(0, 8, (rows, slots), np.int32),
        "masked_labels": rng.integers(0, vocab_size, (rows, slots), np.int32),
        "masked_weights": rng.integers(0, 2, (rows, slots)).astype(np.float32),
        "next_sentence_label": rng.integers(0, 2, rows, np.int32),
    }


@functools.cache
def initial_state(vocab_size, optimizer):
    """Draws the state on one device, because drawing on a mesh takes long to compile; returns it on the host."""
    config = make_config(optimizer=optimizer)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    return jax.device_get(step_lib.init_state(config, model_lib.build(config.model, vocab_size), mesh, STEPS))


@functools.cache
def trained(sizes, vocab_size, steps, rows=16, dropout=0.0, microbatches=1, optimizer_state="whole", optimizer="adamw"):
    """Returns (losses, the first step's gradients as AdamW's first moments hold them, parameters at the end)."""
    config = make_config(dropout, microbatches, optimizer_state, optimizer)
    devices = jax.devices()[: np.prod(sizes)]
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)), devices)
    model = model_lib.build(config.model, vocab_size)
    state = sharding.put(initial_state(vocab_size, optimizer), step_lib.state_shardings(config, model, mesh, STEPS))
    train_step = step_lib.make_train_step(config, model, mesh, STEPS)
    rng = np.random.default_rng(0)
    losses, gradients = [], None
    for step in range(steps):
        batch = sharding.put_rows(make_batch(rng, vocab_size, rows), mesh)
        state, metrics = train_step(state, batch, np.int32(step), step_lib.dropout_key(config))
        losses.append(float(metrics["loss"]))
        if step == 0:
            gradients = {
                name: np.asarray(leaf)
                for path, leaf in jax.tree_util.tree_leaves_with_path(state["opt_state"])
                if "/mu/" in (name := sharding.path_name(path))
            }
    return np.array(losses), gradients, jax.tree.map(np.asarray, state["params"])


def assert_as_on_one_device(
    sizes, vocab_size, steps, rows=16, dropout=0.0, microbatches=1, optimizer_state="whole", optimizer="adamw"
):
    assert jax.device_count() == 8
    changes = {"rows": rows, "dropout": dropout, "optimizer": optimizer}
    losses, gradients, params = trained(
        sizes, vocab_size, steps, microbatches=microbatches, optimizer_state=optimizer_state, **changes
    )
    expected, expected_gradients, expected_params = trained((1, 1, 1), vocab_size, steps, **changes)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert len(gradients) == len(jax.tree.leaves(params)) and expected[0] != expected[-1]
    for name, gradient in gradients.items():
        largest = np.abs(expected_gradients[name]).max()
        np.testing.assert_allclose(gradient, expected_gradients[name], atol=1e-5 * largest, rtol=1e-4, err_msg=name)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(expected_params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("sizes", MESHES)
def test_losses_and_gradients(sizes):
    """With a vocabulary and a table of positions that neither fsdp nor tensor divides."""
    assert_as_on_one_device(sizes, 61, STEPS)


@pytest.mark.one_in(8)
@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "stable_adamw"])
@pytest.mark.parametrize(("sizes", "microbatches"), [((2, 2, 2), 1), ((8, 1, 1), 2), ((2, 4, 1), 2)])
def test_moments_in_parts_change_nothing(sizes, microbatches, optimizer):
    assert_as_on_one_device(sizes, 61, STEPS, 32, 0.1, microbatches, "split", optimizer)


@pytest.mark.full
@pytest.mark.parametrize(("sizes", "microbatches"), PARTS[1:])
def test_parts_of_a_batch_on_any_mesh_drop_the_same(sizes, microbatches):
    assert_as_on_one_device(sizes, 61, STEPS, 32, 0.1, microbatches)


@pytest.mark.full
def test_a_published_vocabulary_that_tensor_does_not_divide():
    assert_as_on_one_device((1, 4, 2), 50_265, 2)
