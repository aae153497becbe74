"""Cases for kernels that read [batch, sequence, units]: what they must give, from float64 and from plain XLA."""

import jax
import jax.numpy as jnp
import numpy as np

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import sharding
from bert_jax.model.dropout import dropout
from bert_jax.training import step as step_lib
from tests.model.test_kernels import make_batch

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


def make_model(platform, **changes):
    config = config_lib.base().model
    config.update(hidden_size=32, num_layers=2, num_heads=4, intermediate_size=24, max_positions=256)
    config.update(attention_dropout=0.1, dtype="float32", **changes)
    return model_lib.build(config, 64, platform=platform, next_sentence=False)


FAMILIES = {
    "learned": {},
    "rotary, grouped heads": {"positions": "rotary", "num_kv_heads": 2},
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
