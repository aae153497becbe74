"""Tests bfloat16 computation: what stays float32, and that loss curves stay within the noise of float32."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.training import step as step_lib

VOCAB, ROWS, LENGTH, SLOTS, STEPS = 30, 16, 16, 4, 80
MESH = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])


def make_config(dtype, seed=0):
    config = config_lib.base()
    config.seed = seed
    config.model.update(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, max_positions=LENGTH)
    config.model.update(dtype=dtype, scan_layers=True)
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10)
    return config


def make_batch(step):
    """Makes rows that repeat a token or its successor, so that masked tokens can be guessed from the others."""
    random = np.random.default_rng(step)
    tokens = 1 + (random.integers(0, VOCAB - 1, (ROWS, 1)) + random.integers(0, 2, (ROWS, LENGTH))) % (VOCAB - 1)
    positions = np.stack([random.choice(LENGTH, SLOTS, replace=False) for _ in range(ROWS)])
    shown = tokens.copy()
    np.put_along_axis(shown, positions, 0, axis=1)
    return {
        "input_ids": shown.astype(np.int32),
        "attention_mask": np.ones((ROWS, LENGTH), np.int32),
        "token_type_ids": np.zeros((ROWS, LENGTH), np.int32),
        "masked_positions": positions.astype(np.int32),
        "masked_labels": np.take_along_axis(tokens, positions, axis=1).astype(np.int32),
        "masked_weights": np.ones((ROWS, SLOTS), np.float32),
        "next_sentence_label": np.full(ROWS, -1, np.int32),
    }


@functools.cache
def initial_state(seed):
    """Returns the initial state on the host, in float32 whatever the compute dtype."""
    config = make_config("float32", seed)
    model = model_lib.build(config.model, VOCAB)
    return jax.device_get(step_lib.init_state(config, model, MESH, STEPS))


def curves(dtype, seeds):
    """Returns losses [seed, step]; a whole run is one compiled program."""
    config = make_config(dtype)
    train_step = step_lib.make_train_step(config, model_lib.build(config.model, VOCAB), MESH, STEPS)
    batches = jax.tree.map(lambda *rows: np.stack(rows), *map(make_batch, range(STEPS)))

    @jax.jit
    def run(state, key):
        def step(state, inputs):
            state, metrics = train_step(state, *inputs, key)
            return state, metrics["mlm_loss"]

        return jax.lax.scan(step, state, (batches, np.arange(STEPS, dtype=np.int32)))[1]

    return np.stack([run(initial_state(seed), step_lib.dropout_key(make_config(dtype, seed))) for seed in seeds])


@pytest.mark.full
def test_the_curve_stays_within_the_noise_of_float32():
    seeds = (0, 1, 2)
    full, half = curves("float32", seeds), curves("bfloat16", seeds)
    windows = [slice(start, start + 20) for start in range(0, STEPS, 20)]
    full, half = (np.stack([runs[:, window].mean(1) for window in windows], 1) for runs in (full, half))
    noise = full.std(0, ddof=1)
    assert full[:, -1].max() < 0.8 * full[:, 0].min(), full  # something was learned
    # Either mean of runs strays by noise / sqrt(runs), their difference by sqrt(2) of that: three deviations.
    allowed = 3 * noise * (2 / len(seeds)) ** 0.5
    assert (abs(half.mean(0) - full.mean(0)) < allowed + 0.005).all(), (half.mean(0), full.mean(0), noise)


def test_softmax_norms_and_loss_are_float32():
    config = make_config("bfloat16")
    model = model_lib.build(config.model, VOCAB)
    train_step = step_lib.make_train_step(config, model, MESH, STEPS)
    state = step_lib.abstract_state(config, model, MESH, STEPS)
    traced = train_step.trace(state, make_batch(0), np.int32(0), step_lib.dropout_key(config))
    seen = {name: set() for name in ("exp", "log", "rsqrt", "sqrt", "erf", "reduce_max", "dot_general")}
    for equation in equations(traced.jaxpr.jaxpr):
        if equation.primitive.name in seen:
            seen[equation.primitive.name].add(equation.invars[0].aval.dtype)
    assert jnp.dtype("bfloat16") in seen.pop("dot_general")
    assert set.union(*seen.values()) == {jnp.dtype("float32")} and all(seen.values()), seen


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)
