"""Compares FLOPs by formula with XLA's count for the same forward pass and with counts by hand."""

import types

import jax
import numpy as np
import pytest

from bert_jax import config as config_lib
from bert_jax import model as model_lib
from bert_jax.model import flops


@pytest.fixture
def config():
    """Returns the config of a small model of one layer."""
    config = config_lib.base()
    config.model.update(hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64, max_positions=32)
    return config


@pytest.mark.parametrize("slots", [5, 20])
def test_step_flops_against_the_compiler(config, slots):
    config.model.hidden_size, config.model.intermediate_size = 128, 512
    model = model_lib.build(config.model, 1000, next_sentence=True)
    shape = jax.ShapeDtypeStruct((4, 32), jax.numpy.int32)
    batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), shape)
    batch["masked_positions"] = jax.ShapeDtypeStruct((4, slots), jax.numpy.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))
    counted = jax.jit(model.apply).lower(params, batch).compile().cost_analysis()["flops"]
    assert flops.step_flops(model.spec, 4, 32, slots) / 3 == pytest.approx(counted, rel=0.1)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "switches",
    [
        {"mlp": "gated", "num_kv_heads": 2, "positions": "rotary", "norm_place": "pre"},
        {"embedding_size": 32, "layer_groups": 1},
        {"positions": "relative", "relative_buckets": 8, "mask_decoder": "enhanced", "conv_kernel_size": 3},
    ],
    ids=["gated", "shared", "relative"],
)
def test_step_flops_of_other_encoders(config, switches):
    config.model.update(hidden_size=128, intermediate_size=512, **switches)
    model = model_lib.build(config.model, 1000, next_sentence=True, replaced_tokens=True)
    shape = jax.ShapeDtypeStruct((4, 32), jax.numpy.int32)
    batch = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), shape)
    batch["masked_positions"] = jax.ShapeDtypeStruct((4, 5), jax.numpy.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))
    counted = jax.jit(model.apply).lower(params, batch).compile().cost_analysis()["flops"]
    assert flops.step_flops(model.spec, 4, 32, 5) / 3 == pytest.approx(counted, rel=0.15)


def test_a_window_costs_what_is_within_it(config):
    config.model.update(local_window=8, global_every=2, num_layers=4, max_positions=4096)
    spec = model_lib.build(config.model, 1000, next_sentence=True).spec
    one, two = (flops.attention_flops(spec, 1, length) for length in (1024, 2048))
    half = spec.hidden_size * 2 * 2 * 3 * 2  # multiplications and additions of a pair in two layers, three passes
    assert one == half * (1024 * 1024 + 1024 * 9) and two == half * (2048 * 2048 + 2048 * 9)
    config.model.update(local_window=0, layer_windows=(8, 0))
    spec = model_lib.build(config.model, 1000, next_sentence=True).spec
    assert flops.attention_flops(spec, 1, 1024) == one


def test_peaks():
    def peak(kind):
        return flops.peak_flops(types.SimpleNamespace(device_kind=kind))

    assert peak("NVIDIA H200") == peak("NVIDIA H100 80GB HBM3") == 989e12
    assert peak("TPU v5 lite") == 197e12 and peak("TPU v5p") == 459e12
    assert peak("cpu") is None


def test_step_flops_by_hand(config):
    config.model.update(hidden_size=4, num_layers=2, num_heads=2, intermediate_size=6)
    spec = model_lib.build(config.model, 10, next_sentence=True).spec
    # Multiplications of a row of 3 tokens in one layer: four projections, up and down, scores and their values.
    layer = 4 * (3 * 4 * 4) + 2 * (3 * 4 * 6) + 2 * (3 * 3 * 4)
    heads = 2 * (4 * 4 + 4 * 10) + 4 * 4 + 4 * 2  # two slots' transform and decoder, pooler, pair
    assert flops.step_flops(spec, 5, 3, 2) == 3 * 2 * 5 * (2 * layer + heads)
    pair = 4 * 4 + 4 * 2
    assert flops.step_flops(spec, 5, 3, 2, sequences=7) == 3 * 2 * 5 * (2 * layer + heads + 6 * pair)
    rows = {name: np.zeros(shape) for name, shape in (("input_ids", (5, 3)), ("masked_labels", (5, 2)))}
    assert flops.pretraining_flops(spec, rows) == flops.step_flops(spec, 5, 3, 2)
    rows["cls_positions"] = np.zeros((5, 7))
    assert flops.pretraining_flops(spec, rows) == flops.step_flops(spec, 5, 3, 2, sequences=7)
