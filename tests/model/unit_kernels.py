"""Cases for kernels that read [batch, sequence, units]: what they must give, from float64 and from plain XLA."""

import dataclasses
import math

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.model.dropout import dropout
from bert_jax.model.kernels import AttentionMask
from bert_jax.model.positions import rotary_angles
from bert_jax.training import step as step_lib
from tests.model.test_kernels import make_batch, make_mask

SEED = np.array([123456789, 987654321], np.uint32)


def draw(batch, sequence, heads, kv_heads, size):
    """Returns queries, keys, values and a gradient of the output, float32 [batch, sequence, units]."""
    random = np.random.default_rng(0)
    widths = (heads * size, kv_heads * size, kv_heads * size, heads * size)
    return [random.normal(size=(batch, sequence, width)).astype(np.float32) for width in widths]


def reference(arrays, mask, size, rotation, rate, seed):
    """Returns outputs and gradients in float64 from plain products, where the drawn bits are those of `dropout`."""
    batch, sequence = mask.present.shape
    allowed = np.broadcast_to(mask.to_array(), (batch, 1, sequence, sequence))
    heads, there = arrays[0].shape[2] // size, np.asarray(mask.present)[..., None]
    ones = jnp.ones((batch, heads, sequence, sequence), jnp.float32)
    factor = np.asarray(dropout(ones, rate, None if seed is None else jnp.asarray(seed)), np.float64)
    with jax.enable_x64(True):

        def split(x):
            return x.reshape(batch, sequence, -1, size).swapaxes(1, 2)

        def loss(query, key, value):
            query, key, value = split(query), split(key), split(value)
            if rotation is not None:
                cosine, sine = (np.asarray(angle, np.float64)[:, None] for angle in rotation)

                def turn(x):
                    first, second = jnp.split(x, 2, -1)
                    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)

                query, key = turn(query), turn(key)
            key, value = (jnp.repeat(x, heads // x.shape[1], 1) for x in (key, value))
            scores = jnp.where(allowed, query @ key.swapaxes(2, 3) / size**0.5, -1e30)
            mixed = (jax.nn.softmax(scores, -1) * factor) @ value
            mixed = jnp.where(there, mixed.swapaxes(1, 2).reshape(batch, sequence, -1), 0)
            return (mixed * read).sum(), mixed

        *inputs, read = (jnp.asarray(array, jnp.float64) for array in arrays)
        gradients, output = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*inputs)
        return [np.asarray(x) for x in (output, *gradients)]


def actual(kernel, arrays, mask, size, rotation, rate, seed):
    """Returns outputs and gradients of a kernel."""
    *inputs, read = map(jnp.asarray, arrays)
    seed = None if seed is None else jnp.asarray(seed)

    def loss(query, key, value):
        mixed = kernel(query, key, value, mask, size, rotation, rate, seed)
        mixed = jnp.where(mask.present[..., None], mixed, 0)
        return (mixed * read).sum(), mixed

    gradients, output = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)
    return [np.asarray(x) for x in (output, *gradients)]


def assert_gives_what_float64_gives(kernel, sequence, heads, kv_heads, size, kind, causal, window, rotary, rate):
    mask = dataclasses.replace(make_mask(kind, causal, 2, sequence), window=window)
    rotation = rotary_angles(jnp.arange(sequence)[None], size, 10000.0) if rotary else None
    arguments = draw(2, sequence, heads, kv_heads, size), mask, size, rotation, rate, SEED if rate else None
    names = ("output", "query", "key", "value")
    for name, one, other in zip(names, actual(kernel, *arguments), reference(*arguments), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6 * abs(other).max(), err_msg=name)


def assert_a_part_drops_what_the_whole_does(kernel, sequence, size):
    arrays, mask = draw(4, sequence, 2, 2, size), make_mask("anywhere", False, 4, sequence)
    whole = actual(kernel, arrays, mask, size, None, 0.2, SEED)
    part, rows = AttentionMask(mask.present[2:0:-1]), np.concatenate([SEED, np.array([2, 1], np.uint32)])
    parts = actual(kernel, [x[2:0:-1] for x in arrays], part, size, None, 0.2, rows)
    for one, other in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(one, other[2:0:-1])


def assert_bfloat16_is_near_to_float64(kernel):
    arrays, mask = draw(2, 128, 2, 2, 64), make_mask("packed", False, 2, 128)
    rotation = rotary_angles(jnp.arange(128)[None], 64, 10000.0)
    halves = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
    ours = actual(kernel, halves, mask, 64, rotation, 0.1, SEED)
    for one, other in zip(ours, reference(arrays, mask, 64, rotation, 0.1, SEED), strict=True):
        assert np.linalg.norm(one.astype(np.float64) - other) < 0.01 * np.linalg.norm(other)


def make_model(platform, **changes):
    config = config_lib.base().model
    config.update(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=24, max_positions=256)
    config.update(attention_dropout=0.1, dtype="float32", **changes)
    return model_lib.build(config, 64, platform=platform, next_sentence=False)


FAMILIES = {
    "learned": {},
    "rotary, grouped heads": {"positions": "rotary", "num_kv_heads": 2},
    "normed heads": {"positions": "rotary", "num_kv_heads": 2, "query_key_norm": "rms", "score_size": 5},
    "windows": {"positions": "rotary", "local_window": 64, "global_every": 2, "local_rotary_base": 100.0},
}


MESHES = [
    ({"data": 1, "fsdp": 1, "tensor": 1}, {"remat": "attention"}),
    ({"data": 4, "fsdp": 1, "tensor": 1}, {"scan_layers": True, "remat": "dots_no_batch"}),
    ({"data": 1, "fsdp": 2, "tensor": 4}, {"remat": "full"}),  # more parts than heads of keys
]


def losses(platform, axes, **changes):
    """Returns the losses of twenty steps, with dropout of 0.1 everywhere, as in the recipe."""
    config = config_lib.base()
    config.model.update(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=24, max_positions=256)
    config.model.update(dtype="float32", **changes)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=0)
    mesh = sharding.make_mesh(axes, jax.devices()[: axes["data"] * axes["fsdp"] * axes["tensor"]])
    model = model_lib.build(config.model, 64, platform=platform)
    assert model.spec.attention_dropout == model.spec.hidden_dropout == 0.1
    state = step_lib.init_state(config, model, mesh, 20)
    train_step, key = step_lib.make_train_step(config, model, mesh, 20), step_lib.dropout_key(config)
    random, values = np.random.default_rng(0), []
    for step in range(20):
        batch = make_batch(rows=4, length=256) | {
            "masked_labels": random.integers(0, 64, (4, 3)).astype(np.int32),
            "masked_weights": np.ones((4, 3), np.float32),
            "next_sentence_label": random.integers(0, 2, 4).astype(np.int32),
        }
        state, metrics = train_step(state, batch, np.int32(step), key)
        values.append(float(metrics["loss"]))
    return values


def kernel_products(function, *arguments) -> dict[str, int]:
    """Returns the FLOPs of the matrix products of every kernel that a function calls, by the kernel's name.

    They are counted in the kernels' own programs, as often as their grids run them; what depends on the block, such as
    turning the keys of a row, runs for one block of a row.
    """
    counts = {}
    for equation in _equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if equation.primitive.name == "pallas_call":
            *others, blocks = equation.params["grid_mapping"].grid
            kernel, name = equation.params["jaxpr"], equation.params["name"]
            products = sum(blocks * _products(inner) for inner in kernel.eqns)
            once = [inner for inner in kernel.eqns if inner.primitive.name == "cond"]
            products += sum(
                _products(each) for inner in once for branch in inner.params["branches"] for each in branch.eqns
            )
            counts[name] = counts.get(name, 0) + math.prod(others) * products
    return counts


def kernel_estimates(function, *arguments) -> dict[str, int]:
    """Returns the FLOPs that the kernels of a function say that they take, by the kernel's name."""
    calls = _equations(jax.make_jaxpr(function)(*arguments).jaxpr)
    counts = {}
    for equation in calls:
        if equation.primitive.name == "pallas_call":
            name = equation.params["name"]
            counts[name] = counts.get(name, 0) + equation.params["cost_estimate"].flops
    return counts


def _products(equation):
    if equation.primitive.name != "dot_general":
        return 0
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(result) * math.prod(left[axis] for axis in contracted)


def _equations(jaxpr):
    """Yields the equations of a program and of those that it calls, kernels left out."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name != "pallas_call":
            for inner in jax.extend.core.jaxprs_in_params(equation.params):
                yield from _equations(inner)
