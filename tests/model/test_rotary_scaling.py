"""Compares scaled rotary positions with the float64 reference and with transformers' own functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.model import rotary_scaling
from tests.model import reference

KINDS = {
    "none": {},
    "linear": {"rotary_factor": 4.0},
    "ntk": {"rotary_factor": 8.0},
    "ntk, mixed": {"rotary_factor": 8.0, "rotary_mixed": 0.625},
    "ntk, all alike": {"rotary_factor": 3.0, "rotary_mixed": 0.0},
    "dynamic": {"rotary_factor": 2.0, "rotary_trained": 512},
    "yarn": {"rotary_factor": 4.0, "rotary_trained": 512},
    "yarn, own turns": {"rotary_factor": 16.0, "rotary_trained": 2048, "rotary_fast_turns": 20.0,
                        "rotary_slow_turns": 3.0, "rotary_attention_factor": 1.5},
    "yarn, short rows": {"rotary_factor": 2.0, "rotary_trained": 6},
    "llama3": {"rotary_factor": 8.0, "rotary_trained": 512},
    "llama3, own turns": {"rotary_factor": 8.0, "rotary_trained": 1024, "rotary_fast_turns": 9.0,
                          "rotary_slow_turns": 0.5},
}  # fmt: skip


def settings_of(name, size=8, **others):
    kind = {"positions": "rotary", "rotary_scaling": name.split(",")[0], "rotary_base": 500.0, **KINDS[name]}
    sizes = {"hidden_size": 2 * size, "num_heads": 2, "num_layers": 2, "intermediate_size": 12, "max_positions": 4096}
    return {**config_lib.base().model.to_dict(), **sizes, "pooler": False, **kind, **others}


def spec_of(name, size=8, **others):
    return model_lib.build(settings_of(name, size, **others), 31, next_sentence=False).spec


def angles_of(rotation):
    """Returns the angles modulo 2 pi and the factor of cosines and sines."""
    cosine, sine = (np.asarray(part, np.float64) for part in rotation)
    return np.arctan2(sine, cosine), np.hypot(cosine, sine)


@pytest.mark.parametrize("size", [4, 64, 96])
@pytest.mark.parametrize("name", KINDS)
def test_angles_are_those_of_the_reference(name, size):
    """In rows of several lengths, shorter and longer than those of training; rounding grows with the position."""
    for length in (16, 512, 1500):
        positions = jnp.arange(length, dtype=jnp.int32)[None]
        angle, factor = angles_of(rotary_scaling.rotation(spec_of(name, size), positions, length))
        speeds, expected = reference._speeds(settings_of(name, size), 500.0, size, length, local=False)
        exact = np.arange(length)[:, None] * speeds
        away = np.abs(np.exp(1j * angle[0]) - np.exp(1j * exact))
        assert (away <= 1e-6 + 1e-6 * np.arange(length)[:, None]).all()
        np.testing.assert_allclose(factor, expected, rtol=1e-6)


@pytest.mark.parametrize("name", KINDS)
def test_layers_with_a_window_are_scaled_on_demand(name):
    positions = jnp.arange(600, dtype=jnp.int32)[None]
    switches = {"local_window": 4, "local_rotary_base": 90.0}
    plain = spec_of("none", **switches)
    for scaled, expected in (
        (False, rotary_scaling.rotation(plain, positions, 600, local=True)),
        (True, rotary_scaling.rotation(spec_of(name, rotary_base=90.0), positions, 600)),
    ):
        spec = spec_of(name, local_rotary_scaling=scaled, **switches)
        actual = rotary_scaling.rotation(spec, positions, 600, local=True)
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def hidden_of(model, params, ids, **others):
    batch = {"input_ids": ids, "token_type_ids": np.zeros_like(ids), "attention_mask": np.ones_like(ids)} | others
    return np.asarray(jax.jit(model.apply)(params, batch)["hidden"])


def test_dynamic_scaling_is_by_the_length_of_the_rows():
    """Rows up to those of training are as without; beyond, each length has its own base, also of padded rows."""
    changes = {"rotary_trained": 24, "max_positions": 64, "initializer_range": 0.2, "hidden_dropout": 0.0}
    changes["attention_dropout"] = 0.0
    dynamic = model_lib.build(settings_of("dynamic", **changes), 31, next_sentence=False)
    plain = model_lib.build(settings_of("none", **changes | {"rotary_trained": 0}), 31, next_sentence=False)
    params = dynamic.init(jax.random.key(0))
    ids = np.random.default_rng(0).integers(1, 31, (2, 48)).astype(np.int32)
    short = ids[:, :24]
    np.testing.assert_array_equal(hidden_of(dynamic, params, short), hidden_of(plain, params, short))
    whole = hidden_of(dynamic, params, ids)
    stretch = 2.0 * 48 / 24 - 1
    config = settings_of("none", **changes | {"rotary_trained": 0, "rotary_base": 500.0 * stretch ** (8 / 6)})
    expected = hidden_of(model_lib.build(config, 31, next_sentence=False), params, ids)
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    present = (np.arange(48) < 24).astype(np.int32)[None].repeat(2, 0)
    padded = hidden_of(dynamic, params, ids * present, attention_mask=present)[:, :24]
    assert np.abs(padded - hidden_of(dynamic, params, short)).max() > 1e-3
    packed = {"sequence_ids": 2 - present, "position_ids": np.tile(np.arange(24), (2, 2)).astype(np.int32)}
    np.testing.assert_allclose(hidden_of(dynamic, params, ids, **packed)[:, :24], padded, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("size", [8, 64, 96])
@pytest.mark.parametrize("name", [name for name in KINDS if not name.startswith(("none", "ntk"))])
def test_frequencies_are_those_of_transformers(name, size):
    import torch
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    from bert_jax.interop.families.rotary import rotary_object

    spec = spec_of(name, size)
    kind = spec.rotary_scaling
    rope = rotary_object(spec, spec.rotary_base)
    trained = 512 if kind == "dynamic" else 4096
    config = transformers.LlamaConfig(
        hidden_size=2 * size, num_attention_heads=2, max_position_embeddings=trained, rope_parameters=rope
    )
    for length in (16, 512, 1500, 4096):
        theirs, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=torch.tensor(length))
        ours = rotary_scaling._FREQUENCIES[kind](spec, spec.rotary_base, length)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)
        assert kind != "yarn" or factor == pytest.approx(spec.rotary_attention_factor, rel=1e-12)
