"""Schedules against values worked out by hand; AdamW, LAMB and StableAdamW against the published formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax import objectives, sharding
from bert_jax.model.parameters import leaves_by_name
from bert_jax.model.stack import STACKED, stack_layers, unstack_layers
from bert_jax.training import optimizer as optimizer_lib


def settings(**changes):
    config = config_lib.base().optimizer
    config.update(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 20 steps, 4 of warm-up, peak 1: {step: rate}
        ({"schedule": "linear"}, {0: 0, 1: 0.25, 2: 0.5, 4: 1, 8: 0.75, 12: 0.5, 19: 1 / 16, 20: 0}),
        ({"schedule": "linear", "final_fraction": 0.2}, {4: 1, 12: 0.6, 20: 0.2, 25: 0.2}),
        ({"schedule": "linear", "warmup_steps": 0}, {0: 1, 10: 0.5, 20: 0}),
        ({"schedule": "cosine"}, {2: 0.5, 4: 1, 8: (1 + 0.5**0.5) / 2, 12: 0.5, 20: 0}),
        ({"schedule": "cosine", "final_fraction": 0.2}, {4: 1, 12: 0.6, 20: 0.2}),
        ({"schedule": "trapezoidal", "decay_steps": 8}, {1: 0.25, 4: 1, 12: 1, 14: 0.75, 16: 0.5, 20: 0}),
        ({"schedule": "trapezoidal"}, {4: 1, 18: 1, 19: 0.5, 20: 0}),
        ({"schedule": "trapezoidal", "decay_steps": 4, "final_fraction": 0.5}, {16: 1, 18: 0.75, 20: 0.5}),
        (
            {"schedule": "trapezoidal", "decay_steps": 16, "decay_shape": "sqrt"},
            {4: 1, 5: 0.75, 8: 0.5, 13: 0.25, 20: 0},
        ),
        (
            {"schedule": "trapezoidal", "decay_steps": 4, "decay_shape": "sqrt", "final_fraction": 0.2},
            {2: 0.5, 10: 1, 16: 1, 17: 0.6, 20: 0.2, 25: 0.2},
        ),
        ({"schedule": "trapezoidal", "decay_steps": 8, "decay_shape": "cosine"}, {12: 1, 16: 0.5, 20: 0}),
        ({"schedule": "trapezoidal", "warmup_steps": 0, "decay_shape": "sqrt"}, {0: 1, 18: 1, 19: 1 - 0.5**0.5, 20: 0}),
        ({"schedule": "constant"}, {0: 0, 3: 0.75, 4: 1, 19: 1}),
    ],
)
def test_schedules(changes, expected):
    schedule = optimizer_lib.make_schedule(settings(**({"warmup_steps": 4, "learning_rate": 1.0} | changes)), 20)
    rates = jax.jit(jax.vmap(schedule))(jnp.arange(30))
    np.testing.assert_allclose([rates[step] for step in expected], list(expected.values()), atol=1e-6)


def tree(seed, scale=1.0):
    random = np.random.default_rng(seed)

    def draw(*shape):
        return (random.standard_normal(shape) * scale).astype(np.float32)

    return {
        "up": {"kernel": draw(4, 6), "bias": draw(6)},
        "norm": {"scale": draw(6), "bias": draw(6)},
        "word": {"embedding": draw(9, 4)},
    }


def published(
    name, params, gradients, clip, rate=0.01, decay=0.1, b1=0.9, b2=0.99, epsilon=1e-6, corrected=True, decay_all=False
):
    """The formulas, leaf by leaf, in numpy."""
    moments = {}
    for t, grads in enumerate(gradients, 1):
        norm = np.sqrt(sum((g**2).sum() for leaves in grads.values() for g in leaves.values()))
        for module, leaves in params.items():
            for leaf, p in leaves.items():
                g = grads[module][leaf] * (min(1, clip / norm) if clip else 1)
                m, v = moments.get((module, leaf), (0, 0))
                m, v = moments[module, leaf] = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
                if corrected:
                    m, v = m / (1 - b1**t), v / (1 - b2**t)
                update, is_weight = m / (np.sqrt(v) + epsilon), leaf in ("kernel", "embedding")
                if is_weight or decay_all:
                    update = update + decay * p
                if is_weight and name == "lamb":
                    update = update * np.linalg.norm(p) / np.linalg.norm(update)
                leaves[leaf] = p - rate * update
    return params


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_updates_as_published(name, clip):
    config = settings(name=name, learning_rate=0.01, schedule="constant", warmup_steps=0, weight_decay=0.1)
    config.update(b2=0.99, clip_norm=clip)
    optimizer = optimizer_lib.make_optimizer(config, 10)
    params, gradients = tree(0), [tree(seed, 3.0) for seed in (1, 2, 3)]
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    expected = published(name, tree(0), gradients, clip)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected)


@pytest.mark.parametrize("changes", [{"bias_correction": False}, {"decay_all": True}])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_updates_without_bias_correction_and_with_all_parameters_decayed(name, changes):
    """Moments are not corrected, as in google-research/bert, albert and electra; biases decay, as in fairseq."""
    config = settings(name=name, learning_rate=0.01, schedule="constant", warmup_steps=0, weight_decay=0.1, b2=0.99)
    config.update(changes)
    params, gradients = tree(0), [tree(seed, 3.0) for seed in (1, 2, 3)]
    optimizer = optimizer_lib.make_optimizer(config, 10)
    state = optimizer.init(params)
    assert jax.tree.structure(state) == jax.tree.structure(
        optimizer_lib.make_optimizer(settings(name=name), 10).init(params)
    )
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    said = {"corrected": config.bias_correction, "decay_all": config.decay_all}
    expected = published(name, tree(0), gradients, 1.0, **said)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), params, expected)


def test_norms_of_queries_keys_and_outputs_do_not_decay():
    norms = {"query_key_norm": "rms", "output_norm": True, "zero_centered_scale": True}
    model = model_lib.build(config_lib.base().model.to_dict() | {"num_layers": 1} | norms, 17, next_sentence=False)
    decayed = leaves_by_name(optimizer_lib.is_weight(model.shapes()))
    new = {name for name in decayed if "query_norm" in name or "key_norm" in name or "output_norm" in name}
    assert len(new) == 4 + 2 and not any(decayed[name] for name in new)  # output norms have a bias too
    assert decayed["encoder/layers/0/attention/query/kernel"]


def test_the_first_uncorrected_update_is_as_many_times_as_large_as_the_betas_say():
    def first(name, corrected):
        config = settings(name=name, warmup_steps=0, weight_decay=0.0, bias_correction=corrected, clip_norm=0.0)
        optimizer = optimizer_lib.make_optimizer(config, 10)
        return optimizer.update(tree(1), optimizer.init(tree(0)), tree(0))[0]["up"]["bias"]

    np.testing.assert_allclose(first("adamw", False), first("adamw", True) * 0.1 / 0.001**0.5, rtol=1e-3)
    assert max((1 - 0.9**t) / (1 - 0.999**t) ** 0.5 for t in range(1, 50)) == pytest.approx(6.6, abs=0.05)
    assert np.isfinite(first("stable_adamw", False)).all()


def test_two_networks_are_clipped_each_by_its_own_norm():
    """DeBERTa v3: a discriminator whose loss is weighed 50 times leaves the generator's update as it is."""
    params = {**tree(0), "generator": tree(1)}
    config = settings(name="adamw", warmup_steps=0, epsilon=1.0, clip_norm=0.5, learning_rate=0.01)

    def updated(weight, network):
        optimizer = optimizer_lib.make_optimizer(config, 10, network=network)
        gradients = {**jax.tree.map(lambda leaf: leaf * weight, tree(2)), "generator": tree(3)}
        return jax.jit(optimizer.update)(gradients, optimizer.init(params), params)[0]

    network = objectives.implementation("rtd").network
    apart, alone = updated(50.0, network), optimizer_lib.make_optimizer(config, 10)
    expected, _ = alone.update(tree(3), alone.init(tree(1)), tree(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), apart["generator"], expected)
    expected, _ = alone.update(tree(2, 50.0), alone.init(tree(0)), tree(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), apart["up"], expected["up"])
    together = updated(50.0, None)
    assert not np.allclose(together["generator"]["up"]["kernel"], apart["generator"]["up"]["kernel"])


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_stable_adamw_in_float64(clip):
    """The recursion with debiased betas, as published, beside moments that are unbiased when they are read."""
    config = settings(name="stable_adamw", learning_rate=0.01, schedule="constant", warmup_steps=0, clip_norm=clip)
    config.update(weight_decay=0.1, b1=0.9, b2=0.99, epsilon=1e-3)
    gradients = [jax.tree.map(np.float64, tree(1 + t, scale)) for t, scale in enumerate((1.0, 0.01, 5.0, 1e-4))]
    expected = jax.tree.map(np.float64, tree(0))
    ratios, moments = [], {}
    for t, grads in enumerate(gradients, 1):
        norm = np.sqrt(sum((g**2).sum() for leaves in grads.values() for g in leaves.values()))
        b1, b2 = (beta * (1 - beta ** (t - 1)) / (1 - beta**t) for beta in (0.9, 0.99))
        for module, leaves in expected.items():
            for leaf, p in leaves.items():
                g = grads[module][leaf] * (min(1, clip / norm) if clip else 1)
                v, u = moments.get((module, leaf), (0, 0))
                v, u = moments[module, leaf] = b1 * v + (1 - b1) * g, b2 * u + (1 - b2) * g**2
                ratios.append(np.sqrt((g**2 / np.maximum(u, 1e-3**2)).mean()))
                rate = 0.01 / max(1, ratios[-1])
                decayed = p * (1 - rate * 0.1) if leaf in ("kernel", "embedding") else p
                leaves[leaf] = decayed - rate * v / (np.sqrt(u) + 1e-3)
    assert max(ratios) > 1.2 and min(ratios) < 0.9  # both sides of the clip
    with jax.enable_x64(True):
        optimizer = optimizer_lib.make_optimizer(config, 10)
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree(0))
        state = optimizer.init(params)
        for grads in gradients:
            updates, state = optimizer.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), params, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float64)}


def test_stable_adamw_divides_by_the_ratio_of_whole_arrays():
    """Norms of parameters that eight devices share are right, too."""
    optimizer = optimizer_lib.make_optimizer(settings(name="stable_adamw", warmup_steps=0, b2=0.99), 10)
    mesh = sharding.make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    specs = {"kernel": P("fsdp", "tensor"), "embedding": P(None, "fsdp")}
    gradients = [tree(1, 0.1), tree(2, 10.0)]

    def spread(leaves):
        return {
            module: {
                name: jax.device_put(leaf, jax.NamedSharding(mesh, specs.get(name, P())))
                for name, leaf in named.items()
            }
            for module, named in leaves.items()
        }

    def updated(placed):
        params = placed(tree(0))
        state = jax.jit(optimizer.init)(params)
        for gradient in gradients:
            updates, state = jax.jit(optimizer.update)(placed(gradient), state, params)
        return jax.device_get(updates)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updated(spread), updated(lambda x: x))


@pytest.mark.parametrize("name", ["adamw", "lamb", "stable_adamw"])
def test_stacked_layers_are_updated_as_single_ones(name):
    optimizer = optimizer_lib.make_optimizer(settings(name=name, warmup_steps=0), 10)

    def layered(seed):
        return {"layers": {str(i): tree(seed + i, 1.0 + i) for i in range(3)}, "head": tree(seed + 3)}

    def updated(params, gradients):
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = jax.jit(optimizer.update)(gradient, state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    gradients = [layered(10), layered(20)]
    single = updated(layered(0), gradients)
    stacked = updated(stack_layers(layered(0)), [stack_layers(gradient) for gradient in gradients])
    assert set(stacked["layers"]) == {STACKED}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), unstack_layers(stacked), single)
