"""Compares global tokens beside windows with masked scores of all pairs: gradients, dropout, meshes, tasks, memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.model import global_tokens, kernels

LENGTH = 300  # more than three blocks of the smallest size
PLACES = np.array([[0, 7, 299, -1], [3, -1, -1, -1]], np.int32)


def make_model(**switches):
    config = config_lib.base().model
    config.update(hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24, max_positions=LENGTH)
    config.update(hidden_dropout=0.0, attention_dropout=0.0, dtype="float32", layer_windows=(6, 4))
    task = switches.pop("task", None)
    config.update({"global_tokens": "auto"} | switches)
    return model_lib.build(config, 64, next_sentence=False, language_model=task is None, task=task)


def make_batch(rows=2):
    random = np.random.default_rng(0)
    present = np.arange(LENGTH)[None] < np.resize([LENGTH, 222], rows)[:, None]
    return {
        "input_ids": random.integers(0, 64, (rows, LENGTH)).astype(np.int32),
        "attention_mask": present.astype(np.int32),
        "token_type_ids": np.zeros((rows, LENGTH), np.int32),
    }


def hidden_of(model, params, batch, key=None):
    return jax.jit(lambda params: model.apply(params, batch, dropout_key=key)["hidden"])(params)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_windows_with_global_tokens_are_those_of_the_masked_scores(causal, packed):
    """Outputs, gradients and the bits of dropout."""
    random = np.random.default_rng(1)
    drawn = [jnp.asarray(random.normal(size=(2, 3, LENGTH, 4)), jnp.float32) for _ in range(3)]
    present = jnp.asarray(random.random((2, LENGTH)) < 0.9)
    ids = jnp.asarray(np.sort(random.integers(1, 4, (2, LENGTH)), axis=1), jnp.int32) if packed else None
    mask = kernels.AttentionMask(present, ids, causal, window=5, global_positions=jnp.asarray(PLACES))
    seed = jnp.array([3, 4], jnp.uint32)

    def by_windows(query, key, value):
        mixed = kernels.windowed_attention(query, key, value, mask, 0.3, seed)
        own = global_tokens.tokens_at(query, mask.global_positions, 2)
        weights = global_tokens.global_weights(jnp.einsum("bnqd,bnkd->bnqk", own, key) / 2, mask)
        weights = global_tokens.drop_weights(weights, mask, 0.3, seed)
        rows = jnp.einsum("bnqk,bnkd->bnqd", weights, value)
        return global_tokens.placed(mixed, rows, mask.global_positions)

    def by_scores(query, key, value):
        kept = kernels.dropout(kernels.attention_weights(query, key, mask), 0.3, seed)
        return jnp.einsum("bnqk,bnkd->bnqd", kept, value)

    reached = mask.to_array().any(3)[..., None] & present[:, None, :, None]

    def loss(run, *arrays):
        return jnp.sin(jnp.where(reached, run(*arrays), 0)).sum()

    for run in (lambda f: f(*drawn), lambda f: jax.grad(lambda *x: loss(f, *x), argnums=(0, 1, 2))(*drawn)):
        for one, other in zip(jax.tree.leaves(run(by_windows)), jax.tree.leaves(run(by_scores)), strict=True):
            there = reached if one.shape == drawn[0].shape else True
            np.testing.assert_allclose(jnp.where(there, one, 0), jnp.where(there, other, 0), rtol=1e-5, atol=1e-5)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("heads", [1, 2])
def test_few_global_tokens_see_as_many_do(heads):
    """Queries that go back through the map of the keys, and keys of all tokens (grouped, with biases, dropped)."""
    model = make_model(global_projections=True, num_kv_heads=heads, num_heads=2, attention_dropout=0.2)
    params = jax.tree.map(lambda leaf: leaf + 0.1, model.init(jax.random.key(0)))

    def gradient(positions):
        batch = make_batch() | {"global_positions": positions}

        def loss(params):
            hidden = model.apply(params, batch, dropout_key=jax.random.key(2))["hidden"]
            return jnp.sin(jnp.where(batch["attention_mask"][:, :, None] != 0, hidden, 0)).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    few = np.array([[0, 7], [3, -1]], np.int32)
    many = np.pad(few, ((0, 0), (0, 8)), constant_values=-1)  # as many rows as keys have units
    for one, other in zip(*map(jax.tree.leaves, (gradient(few), gradient(many))), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("own", [False, True])
def test_what_is_global_sees_and_is_seen(own):
    model, batch = make_model(global_projections=own), make_batch() | {"global_positions": PLACES}
    params = model.init(jax.random.key(0))
    outputs = jax.jit(lambda params: model.apply(params, batch, attention_weights=True))(params)
    weights = np.asarray(outputs["attention_weights"])
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    far = np.abs(np.arange(LENGTH)[:, None] - np.arange(LENGTH)) > 3
    for row, length in enumerate((LENGTH, 222)):
        chosen = [place for place in PLACES[row] if 0 <= place < length]
        far_row = far.copy()
        far_row[chosen] = far_row[:, chosen] = False
        seen = weights[0, row, :, :length]
        assert seen[:, far_row[:length]].max() == 0 and seen[:, chosen, :length].min() > 0
        assert seen[:, :, chosen].min() > 0 and (length == LENGTH or seen[:, :, length:].max() == 0)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("switches", [{}, {"global_projections": True, "positions": "rotary"}], ids=["shared", "own"])
def test_any_mesh_computes_the_same(switches):
    model = make_model(attention_dropout=0.2, hidden_dropout=0.1, **switches)
    batch = make_batch(4) | {"global_positions": np.concatenate([PLACES, PLACES[::-1]])}
    params = model.init(jax.random.key(0))

    def gradient(params, batch):
        def loss(params):
            hidden = model.apply(params, batch, dropout_key=jax.random.key(7))["hidden"]
            return jnp.sin(jnp.where(jnp.asarray(batch["attention_mask"])[:, :, None] != 0, hidden, 0)).sum()

        return jax.value_and_grad(loss)(params)

    expected = jax.jit(gradient)(params, batch)
    mesh = sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    placed = jax.device_put(params, sharding.tree_shardings(params, mesh)), sharding.put_rows(batch, mesh)
    with jax.set_mesh(mesh):
        actual = jax.jit(gradient)(*placed)
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def test_the_task_chooses_the_first_token():
    tasks = {
        "sequence_classification": True, "embedding": True, "token_classification": False, "question_answering": False,
    }  # fmt: skip
    batch = make_batch()
    first = batch | {"global_positions": np.zeros((2, 1), np.int32)}
    for name, has_first in tasks.items():
        model = make_model(task=model_lib.Task(name, 16, "cls"), global_projections=True, pooler=False)
        params = model.init(jax.random.key(0))
        alone, given = (hidden_of(model, params, x) for x in (batch, first))
        assert np.array_equal(alone, given) == has_first, name
        without = model_lib.Model(dataclasses.replace(model.spec, global_tokens="none"))
        assert np.array_equal(alone, hidden_of(without, params, batch)) != has_first, name
    always = make_model(global_tokens="first")
    params = always.init(jax.random.key(0))
    np.testing.assert_array_equal(hidden_of(always, params, batch), hidden_of(always, params, first))


def test_a_token_that_is_absent_is_not_global():
    model, batch = make_model(global_projections=True), make_batch()
    params = model.init(jax.random.key(0))
    behind = batch | {"global_positions": np.array([[5, -1], [5, 250]], np.int32)}
    before = batch | {"global_positions": np.array([[5], [5]], np.int32)}
    there = batch["attention_mask"] != 0
    one, other = (hidden_of(model, params, x)[there] for x in (behind, before))
    np.testing.assert_allclose(one, other, atol=2e-6)


def test_parts_of_a_batch_drop_what_the_whole_does():
    model = make_model(global_projections=True, attention_dropout=0.3)
    batch = make_batch() | {"global_positions": PLACES}
    params, key = model.init(jax.random.key(0)), jax.random.key(5)
    whole = hidden_of(model, params, batch, key)
    part = {name: array[1:] for name, array in batch.items()} | {"row_numbers": np.array([1], np.int32)}
    np.testing.assert_allclose(hidden_of(model, params, part, key)[0, :222], whole[1, :222], atol=1e-5)


def test_memory_grows_with_the_length():
    def needed(length):
        model = make_model(global_projections=True, max_positions=length, layer_windows=(64,))
        batch = {name: jax.ShapeDtypeStruct((1, length), jnp.int32)
                 for name in ("input_ids", "attention_mask", "token_type_ids")}  # fmt: skip
        batch["global_positions"] = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        run = jax.grad(lambda params, batch: jnp.square(model.apply(params, batch)["hidden"]).mean())
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        return jax.jit(run).lower(shapes, batch).compile().memory_analysis().temp_size_in_bytes

    one, two, four = (needed(length) for length in (1024, 2048, 4096))
    assert two < 2.2 * one and four < 2.2 * two
