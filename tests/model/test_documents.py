"""Texts in chunks: the task's output against the encoder run on each chunk by itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.model import flops, pooling

LENGTH, CHUNKS, VOCABULARY = 6, 4, 40
SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "max_positions": 8}


def build(name="sequence_classification", kind="transformer", pool="mean", **changes):
    task = model_lib.Task(
        name, 3, pool, 0.0, chunk_length=LENGTH, chunk_pooling=kind,
        chunk_layers=2 if kind == "transformer" else 0, max_chunks=CHUNKS,
    )  # fmt: skip
    config = (
        config_lib.base().model.to_dict() | SIZES | {"pooler": pool == "pooler", "initializer_range": 0.2} | changes
    )
    model = model_lib.build(config, VOCABULARY, next_sentence=False, language_model=False, task=task)
    return model, jax.jit(model.init)(jax.random.key(1))


def make_batch(tokens, chunks=CHUNKS, seed=0):
    """Returns a batch of texts with so many tokens in rows of `chunks` chunks."""
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, (len(tokens), CHUNKS * LENGTH))[:, : chunks * LENGTH]
    mask = (np.arange(chunks * LENGTH)[None] < np.array(tokens)[:, None]).astype(np.int32)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def part(batch, i, place):
    """Returns the input of one chunk of one text."""
    return {name: array[i : i + 1, place * LENGTH : (place + 1) * LENGTH] for name, array in batch.items()}


def states_of_chunk(model, params, rows):
    encoder = model_lib.Model(dataclasses.replace(model.spec, task=None, pooler=False))
    return jax.jit(encoder.apply)({"encoder": params["encoder"]}, rows)["hidden"]


TOKENS = (3, 6, 13, 24)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("pool", ["cls", "mean", "max", "pooler", "dense", "attention"])
def test_the_mean_of_chunks(pool):
    """With the mean of chunks, each read by itself, in every way of pooling a chunk."""
    model, params = build(kind="mean", pool=pool)
    batch = make_batch(TOKENS)
    logits = jax.jit(model.apply)(params, batch)["logits"]
    params = jax.tree.map(np.asarray, params)
    task = params["task"]
    for i, tokens in enumerate(TOKENS):
        vectors = []
        for place in range(-(-tokens // LENGTH)):
            rows = part(batch, i, place)
            hidden = np.asarray(states_of_chunk(model, params, rows))
            if pool in ("pooler", "dense"):
                dense = params["pooler"]["dense"] if pool == "pooler" else task["dense"]
                vectors.append(np.tanh(hidden[0, 0] @ dense["kernel"] + dense["bias"]))
                continue
            scores = hidden @ task["score"]["kernel"][:, 0] + task["score"]["bias"] if pool == "attention" else None
            vectors.append(pooling.pool(hidden, rows["attention_mask"], pool, scores)[0])
        expected = np.mean(vectors, 0) @ task["output"]["kernel"] + task["output"]["bias"]
        np.testing.assert_allclose(logits[i], expected, atol=2e-6)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("kind", ["transformer", "attention", "mean"])
@pytest.mark.parametrize("name", ["sequence_classification", "token_classification", "embedding"])
def test_empty_chunks_change_nothing(name, kind):
    """A text's output is the same in a row of more chunks, beside other texts, and as a short row of its own."""
    changes = {"positions": "rotary", "norm_place": "pre", "local_window": 4} if name == "embedding" else {}
    model, params = build(name, kind, **changes)
    output = "vectors" if name == "embedding" else "logits"
    apply = jax.jit(lambda batch: model.apply(params, batch)[output])
    wide = apply(make_batch(TOKENS))
    two = apply({key: array[:2] for key, array in make_batch(TOKENS, chunks=2).items()})
    short = apply({key: array[:1, :3] for key, array in make_batch(TOKENS).items()})
    if name == "token_classification":
        wide, two = wide[:, :6], two[:, :6]
        np.testing.assert_allclose(short[0], wide[0, :3], atol=2e-6)
        np.testing.assert_allclose(two[0, :3], wide[0, :3], atol=2e-6)
        np.testing.assert_allclose(two[1], wide[1], atol=2e-6)
        return
    np.testing.assert_allclose(two, wide[:2], atol=2e-6)
    np.testing.assert_allclose(short, wide[:1], atol=2e-6)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", ["transformer", "attention"])
def test_a_chunk_reads_the_others(kind):
    """Labels of the first chunk's tokens depend on the last chunk, of their own text alone."""
    model, params = build("token_classification", kind)
    batch = make_batch((24, 24))
    changed = {**batch, "input_ids": batch["input_ids"].copy()}
    changed["input_ids"][0, -2] = (changed["input_ids"][0, -2] + 1) % VOCABULARY
    apply = jax.jit(model.apply)
    before, after = (np.asarray(apply(params, rows)["logits"]) for rows in (batch, changed))
    assert np.abs(before[0, :LENGTH] - after[0, :LENGTH]).max() > 1e-4
    np.testing.assert_array_equal(before[1], after[1])


@pytest.mark.more
def test_the_order_of_chunks_counts_for_a_transformer_alone():
    batch = make_batch((24,))
    order = np.array([2, 0, 3, 1])
    moved = {
        name: array.reshape(1, CHUNKS, LENGTH)[:, order].reshape(1, -1) for name, array in batch.items()
    }  # fmt: skip
    for kind in ("transformer", "attention", "mean"):
        model, params = build(kind=kind)
        apply = jax.jit(model.apply)
        difference = np.abs(apply(params, batch)["logits"] - apply(params, moved)["logits"]).max()
        assert difference > 1e-4 if kind == "transformer" else difference < 2e-6


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["token_classification", "sequence_classification"])
def test_dropout_is_a_function_of_a_texts_place(name):
    """A text drops the same in a row of more chunks, and as a part of a batch that says which row it is."""
    model, params = build(name, hidden_dropout=0.2, attention_dropout=0.2)
    key = jax.random.key(3)
    apply = jax.jit(lambda batch: model.apply(params, batch, dropout_key=key)["logits"])
    whole = make_batch((9, 12, 11))
    whole["row_numbers"] = np.arange(3, dtype=np.int32)
    outputs = apply(whole)
    fewer = apply({k: array if array.ndim == 1 else array[:, : 2 * LENGTH] for k, array in whole.items()})
    last = apply({k: array[2:] for k, array in whole.items()})
    np.testing.assert_allclose(fewer, outputs[:, : fewer.shape[1]], atol=2e-6)
    np.testing.assert_allclose(last[0], outputs[2], atol=2e-6)
    assert np.abs(outputs - jax.jit(model.apply)(params, whole)["logits"]).max() > 1e-3


def test_gradients_with_chunks_computed_again():
    """Gradients are those of chunks that are encoded side by side, in one batch."""
    model, params = build(kind="attention", pool="mean")
    batch = make_batch(TOKENS)
    present = batch["attention_mask"].reshape(-1, LENGTH)
    flat = {name: array.reshape(-1, LENGTH) for name, array in batch.items()}
    flat["attention_mask"] = np.maximum(present, (present.sum(1, keepdims=True) == 0) * np.eye(1, LENGTH, dtype=int))

    def side_by_side(params):
        hidden = states_of_chunk(model, params, flat)
        vectors = pooling.pool(hidden, flat["attention_mask"], "mean").reshape(len(TOKENS), CHUNKS, -1)
        reader, output = params["chunks"], params["task"]["output"]
        scores = jnp.tanh(vectors @ reader["dense"]["kernel"] + reader["dense"]["bias"][None, None])
        scores = (scores @ reader["score"]["kernel"])[..., 0]
        scores = jnp.where((present.sum(1) > 0).reshape(len(TOKENS), CHUNKS), scores, -1e30)
        pooled = (vectors * jax.nn.softmax(scores, axis=1)[..., None]).sum(1)
        return jnp.square(pooled @ output["kernel"] + output["bias"][None]).sum()

    gradient = jax.jit(jax.grad(lambda params: jnp.square(model.apply(params, batch)["logits"]).sum()))(params)
    expected = jax.jit(jax.grad(side_by_side))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max() + 1e-7), gradient, expected)


@pytest.mark.more
def test_memory_hardly_grows_with_chunks():
    model, params = build(pool="mean", hidden_size=32, intermediate_size=256)

    def temporaries(chunks):
        batch = make_batch((LENGTH * chunks,) * 8, chunks)
        step = jax.jit(jax.grad(lambda params: model.apply(params, batch)["logits"].sum()))
        return step.lower(params).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(4) < 1.3 * temporaries(2)


def test_operations_are_those_of_the_chunks():
    model, _ = build(kind="mean")
    plain = dataclasses.replace(model.spec, task=dataclasses.replace(model.spec.task, chunk_length=0))
    head = flops.step_flops(plain, 1, LENGTH, 0)
    assert flops.step_flops(model.spec, 2, 3 * LENGTH, 0) == 6 * head
    assert flops.step_flops(model.spec, 2, LENGTH, 0) == 2 * head
