"""One step: the same whatever the mesh, the microbatches and the way the layers run (P4)."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives as objective_lib
from bert_jax import sharding
from bert_jax.objectives import language_modeling
from bert_jax.training import step as step_lib

VOCAB, ROWS, LENGTH, SLOTS = 64, 16, 12, 3


def make_config(dropout=0.0, microbatches=1, scan_layers=False, learning_rate=1e-2, logits_chunk=0):
    config = config_lib.base()
    config.model.update(hidden_size=16, num_layers=2, num_heads=4, intermediate_size=32, max_positions=12)
    config.model.update(hidden_dropout=dropout, attention_dropout=dropout, scan_layers=scan_layers)
    config.optimizer.update(learning_rate=learning_rate, warmup_steps=0)
    config.train.update(microbatches=microbatches, logits_chunk=logits_chunk)
    return config


def make_batch(seed=0):
    """Rows with uneven numbers of predictions and some uncounted pairs, so that means of means would differ."""
    random = np.random.default_rng(seed)
    lengths = random.integers(5, LENGTH + 1, (ROWS, 1))
    return {
        "input_ids": random.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32),
        "attention_mask": (np.arange(LENGTH) < lengths).astype(np.int32),
        "token_type_ids": (np.arange(LENGTH) >= lengths // 2).astype(np.int32),
        "masked_positions": random.integers(0, lengths, (ROWS, SLOTS)).astype(np.int32),
        "masked_labels": random.integers(0, VOCAB, (ROWS, SLOTS)).astype(np.int32),
        "masked_weights": (np.arange(SLOTS) < random.integers(1, SLOTS + 1, (ROWS, 1))).astype(np.float32),
        "next_sentence_label": random.integers(-1, 2, ROWS).astype(np.int32),
    }


@functools.cache
def initial_state(vocab_size, **model_changes):
    """On the host; drawn on one device and laid out by `run`, as drawing on a mesh takes long to compile."""
    config = make_config()
    config.model.update(model_changes)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    model = model_lib.build(config.model, vocab_size, next_sentence=config.model.pooler)
    return jax.device_get(step_lib.init_state(config, model, mesh, 10))


def run(config, mesh_sizes=(1, 1, 1), steps=2, vocab_size=VOCAB, batch=None, **model_changes):
    """State and metrics after `steps` steps, on the host."""
    sizes = dict(zip(sharding.AXES, mesh_sizes, strict=True))
    mesh = sharding.make_mesh(sizes, jax.devices()[: np.prod(mesh_sizes)])
    config.model.update(model_changes)
    model = model_lib.build(config.model, vocab_size, next_sentence=config.objective.next_sentence)
    state = initial_state(vocab_size, **model_changes)
    state = step_lib.restored(jax.device_put(state, sharding.tree_shardings(state, mesh)), model, mesh)
    train_step = step_lib.make_train_step(config, model, mesh, 10)
    key = step_lib.dropout_key(config)
    for step in range(steps):
        state, metrics = train_step(state, batch or make_batch(step), np.int32(step), key)
    return jax.device_get(step_lib.saved(state, mesh)), jax.device_get(metrics)


@functools.cache
def reference(dropout):
    return run(make_config(dropout))


def assert_same(one, other):
    """Metrics and first moments (sums of gradients) to rounding."""
    for name, value in other[1].items():
        np.testing.assert_allclose(one[1][name], value, rtol=2e-5, err_msg=name)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(one[0]["opt_state"]), jax.tree.leaves(other[0]["opt_state"]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * abs(b).max() + 1e-7, err_msg=sharding.path_name(path))


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("mesh_sizes", "microbatches", "scan_layers"),
    [((1, 1, 1), 2, False), ((1, 1, 1), 4, True), ((8, 1, 1), 2, False), ((2, 2, 2), 4, True)],
)
def test_microbatches_and_shards_change_nothing_without_dropout(mesh_sizes, microbatches, scan_layers):
    assert_same(run(make_config(0.0, microbatches, scan_layers), mesh_sizes), reference(0.0))


_MORE = (
    ((2, 4, 1), 16, 2),
    ((2, 2, 2), 16, 2),
    ((8, 1, 1), 24, 2),
    ((8, 1, 1), 16, 2),
    ((1, 8, 1), 32, 4),
    ((2, 4, 1), 24, 2),
)
_OTHERS = [pytest.param(*case, marks=pytest.mark.full) for case in _MORE]


@pytest.mark.parametrize(("mesh_sizes", "rows", "microbatches"), [((1, 1, 1), 16, 4), *_OTHERS])
def test_microbatches_of_any_mesh_drop_what_the_whole_batch_would(mesh_sizes, rows, microbatches):
    """Each device's gradients are added up by themselves, or, where rows do not divide, with the others'."""
    batch = {name: np.concatenate([array, array[::-1]])[:rows] for name, array in make_batch().items()}
    assert_same(run(make_config(0.3, microbatches), mesh_sizes, batch=batch), run(make_config(0.3), batch=batch))


def _collectives_of_step(sizes, dtype="float32"):
    """Returns (lowered step of four microbatches, collectives in its loops, those of the whole step), by kind."""
    config = make_config(0.1, 4, scan_layers=True)
    config.model.dtype = dtype
    model = model_lib.build(config.model, VOCAB, next_sentence=True)
    mesh = sharding.make_mesh(dict(zip(sharding.AXES, sizes, strict=True)), jax.devices()[:4])
    state = step_lib.abstract_state(config, model, mesh, 10)
    arguments = make_batch(), np.int32(0), step_lib.dropout_key(config)
    lowered = step_lib.make_train_step(config, model, mesh, 10).lower(state, *arguments)
    text = lowered.compile().as_text()
    bodies = re.split(r"\n(?=%|ENTRY )", text)
    loops = [body for body in bodies if body.startswith("%") and "region" in body.split("(")[0]]
    collective = r" (all-reduce|all-gather|reduce-scatter)(?:-start)?\("
    in_loops = collections.Counter(kind for body in loops for kind in re.findall(collective, body))
    return lowered, in_loops, collections.Counter(re.findall(collective, text))


@pytest.mark.more
def test_devices_exchange_parameters_and_gradients_once(monkeypatch):
    """The loop over microbatches has no collective in it where a mesh has no tensor axis and devices take it whole."""
    _, in_loops, collectives = _collectives_of_step((4, 1, 1))
    assert not in_loops and set(collectives) == {"all-reduce"}
    lowered, in_loops, collectives = _collectives_of_step((2, 2, 1), "bfloat16")
    assert not in_loops and set(collectives) == {"all-reduce", "all-gather", "reduce-scatter"}
    gathered = re.findall(r"all_gather.*-> tensor<(\w+)>", lowered.as_text())
    assert {"2x16x16xbf16", "2x16x32xbf16", "2x32x16xbf16", f"{VOCAB}x16xf32"} <= set(gathered)
    assert not [shape for shape in gathered if re.fullmatch(r"2x\d+x\d+xf32", shape)]
    assert _collectives_of_step((2, 1, 2))[1]["all-reduce"]
    monkeypatch.setattr(step_lib, "WholeParameters", functools.partial(step_lib.WholeParameters, limit=1000))
    assert _collectives_of_step((2, 2, 1))[1]["all-reduce"]


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("mesh_sizes", "scan_layers"), [((1, 1, 1), True), ((8, 1, 1), False), ((1, 4, 2), False), ((2, 1, 4), True)]
)
def test_shards_and_scan_change_nothing_with_dropout(mesh_sizes, scan_layers):
    assert_same(run(make_config(0.3, 1, scan_layers), mesh_sizes), reference(0.3))


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("mesh_sizes", "microbatches", "chunk"), [((1, 1, 1), 1, 7), ((2, 2, 2), 2, 4), ((4, 1, 1), 2, 2)]
)
def test_chunks_of_logits_change_nothing(mesh_sizes, microbatches, chunk):
    config = make_config(0.3 if microbatches == 1 else 0.0, microbatches, logits_chunk=chunk)
    assert_same(run(config, mesh_sizes), reference(config.model.hidden_dropout))


@pytest.mark.more
def test_chunks_of_logits_without_parameters_of_their_own():
    head = {"mlm_transform": False, "decoder_bias": False}
    assert_same(run(make_config(logits_chunk=4), **head), run(make_config(), **head))


def test_the_initial_state_is_the_same_on_every_mesh_and_never_whole():
    config = make_config()
    model = model_lib.build(config.model, VOCAB)
    state = step_lib.init_state(config, model, sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}), 10)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), initial_state(VOCAB))
    word = state["opt_state"][1].mu["encoder"]["embeddings"]["word"]["embedding"]
    assert word.addressable_shards[0].data.shape == (VOCAB // 2, 8)


@pytest.mark.more
def test_a_vocabulary_that_no_axis_divides():
    config, batch = make_config(), make_batch()
    batch = {k: np.minimum(v, 60) if v.dtype == np.int32 else v for k, v in batch.items()}
    one, other = (run(config, sizes, vocab_size=61, batch=batch) for sizes in ((1, 4, 2), (1, 1, 1)))
    assert_same(one, other)


def test_the_loss_is_the_mean_over_all_predictions():
    config, batch = make_config(), make_batch()
    model = model_lib.build(config.model, VOCAB)
    mesh = sharding.make_mesh({"data": 8, "fsdp": 1, "tensor": 1})
    state = jax.device_put(initial_state(VOCAB), step_lib.state_shardings(config, model, mesh, 10))
    outputs = jax.device_get(jax.jit(model.apply)(state["params"], batch))
    sums = jax.device_get(step_lib.make_eval_step(config, model, mesh)(state["params"], batch))
    metrics = step_lib.make_train_step(config, model, mesh, 10)(
        state, batch, np.int32(0), step_lib.dropout_key(config)
    )[1]

    def losses(logits, labels):
        logits = logits.astype(np.float64)
        chosen = np.take_along_axis(logits, labels[..., None], -1)[..., 0]
        return np.log(np.exp(logits).sum(-1)) - chosen, logits.argmax(-1) == labels

    weights, counted = batch["masked_weights"], batch["next_sentence_label"] >= 0
    mlm, right = losses(outputs["mlm_logits"], batch["masked_labels"])
    nsp, nsp_right = losses(outputs["next_sentence_logits"], np.maximum(batch["next_sentence_label"], 0))
    expected = {
        "mlm_loss": (mlm * weights).sum() / weights.sum(),
        "mlm_accuracy": (right * weights).sum() / weights.sum(),
        "nsp_loss": nsp[counted].mean(),
        "nsp_accuracy": nsp_right[counted].mean(),
    }
    expected["loss"] = expected["mlm_loss"] + expected["nsp_loss"]
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for task in ("mlm", "nsp"):
        count = sums[f"{task}_count"]
        np.testing.assert_allclose(sums[f"{task}_loss_sum"] / count, expected[f"{task}_loss"], rtol=1e-5)
        np.testing.assert_allclose(sums[f"{task}_correct"] / count, expected[f"{task}_accuracy"], rtol=1e-5)
    assert (sums["mlm_count"], sums["nsp_count"]) == (weights.sum(), counted.sum())


@pytest.mark.more
def test_left_to_right_predicts_each_next_token():
    config, batch = make_config(), make_batch()
    causal = {"attention": "causal", "pooler": False}
    config.model.update(causal)
    config.objective.update(name="ltr", next_sentence=False)
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    model = model_lib.build(config.model, VOCAB, next_sentence=False)
    params = initial_state(VOCAB, **causal)["params"]
    objective = objective_lib.make(config, model)
    config.train.logits_chunk = 7
    chunks = objective_lib.make(config, model)
    sums = jax.jit(lambda p: objective.sums(p, batch))(params)
    chunked = jax.jit(lambda p: chunks.sums(p, batch))(params)
    for name, value in sums.items():
        np.testing.assert_allclose(chunked[name], value, rtol=1e-6)
    counts = objective.counts(batch)
    logits = np.asarray(jax.jit(model.apply)(params, batch)["mlm_logits"], np.float64)
    total = number = 0
    for row in range(ROWS):
        for position in range(batch["attention_mask"][row].sum() - 1):
            scores = logits[row, position]
            total += np.log(np.exp(scores).sum()) - scores[batch["input_ids"][row, position + 1]]
            number += 1
    np.testing.assert_allclose(sums["mlm_loss"], total, rtol=1e-5)
    assert counts["mlm_count"] == number
    assert np.isfinite(run(config, (8, 1, 1), steps=1, batch=batch, **causal)[1]["loss"])


def test_cross_entropy_gradient_against_automatic_one():
    logits = jax.random.normal(jax.random.key(0), (3, 4, 9)) * 4
    labels = jax.random.randint(jax.random.key(1), (3, 4), 0, 9)
    weights = jnp.arange(12.0).reshape(3, 4)

    def plain(logits):
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)[..., 0]
        return -(chosen * weights).sum()

    def ours(logits):
        return language_modeling.cross_entropy("mlm", logits, labels, weights)["mlm_loss"]

    np.testing.assert_allclose(jax.grad(ours)(logits), jax.grad(plain)(logits), atol=1e-5)


def lowered(config, mesh_sizes=(1, 1, 1), vocab_size=VOCAB, batch=None):
    """The training step, to be compiled for arrays that are not there."""
    sizes = dict(zip(sharding.AXES, mesh_sizes, strict=True))
    mesh = sharding.make_mesh(sizes, jax.devices()[: np.prod(mesh_sizes)])
    model = model_lib.build(config.model, vocab_size, next_sentence=config.objective.next_sentence)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch or make_batch())
    train_step = step_lib.make_train_step(config, model, mesh, 10)
    state = step_lib.abstract_state(config, model, mesh, 10)
    return train_step.lower(state, shapes, np.int32(0), step_lib.dropout_key(config))


def test_the_head_works_on_masked_positions_alone():
    """No array of a vocabulary's logits has a place for every token, and bfloat16 ends where the logits begin."""
    config = make_config()
    config.model.dtype = "bfloat16"
    text = lowered(config, vocab_size=101).as_text()
    shapes = set(re.findall(r"tensor<([\dx]*)x101x(\w+)>", text))
    wide = {(np.prod([int(size) for size in sizes.split("x")]), kind) for sizes, kind in shapes}
    assert max(number for number, _ in wide) == ROWS * SLOTS
    assert (ROWS * SLOTS, "f32") in wide
    logits = [line for line in text.splitlines() if re.search(rf"dot_general.*-> tensor<{ROWS}x{SLOTS}x101x", line)]
    assert logits and all(line.rstrip().split(" loc")[0].endswith("xf32>") for line in logits)


@pytest.mark.more
def test_left_to_right_in_chunks_takes_less_memory():
    config, batch = make_config(), make_batch()
    config.model.update(attention="causal", pooler=False)
    config.objective.update(name="ltr", next_sentence=False)
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    spent = []
    for chunk in (0, 16):
        config.train.logits_chunk = chunk
        program = lowered(config, vocab_size=4096, batch=batch).compile()
        spent.append(program.memory_analysis().temp_size_in_bytes)
    assert spent[0] - spent[1] > 0.8 * 4 * ROWS * LENGTH * 4096, spent


def test_dropout_differs_by_step_and_repeats_for_a_step():
    batch = make_batch()
    config = make_config(0.3, learning_rate=0.0)
    one, two = run(config, steps=1, batch=batch)[1], run(config, steps=2, batch=batch)[1]
    assert one["loss"] != two["loss"]
    assert run(config, steps=2, batch=batch)[1] == two


def test_the_first_bad_step_is_kept():
    config, batch = make_config(), make_batch()
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    model = model_lib.build(config.model, VOCAB)
    state = jax.device_put(initial_state(VOCAB), step_lib.state_shardings(config, model, mesh, 10))
    train_step, key = step_lib.make_train_step(config, model, mesh, 10), step_lib.dropout_key(config)
    bad = dict(batch, masked_weights=np.full_like(batch["masked_weights"], np.nan))
    seen = []
    for step, rows in enumerate((batch, bad, batch)):
        state, _ = train_step(state, rows, np.int32(step), key)
        seen.append(int(state["bad_step"]))
    assert seen == [-1, 1, 1]
